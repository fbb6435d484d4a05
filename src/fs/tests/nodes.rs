//! Nodeids: one for each file, counted exactly, never confused.

use std::collections::HashSet;

use super::*;

#[test]
fn a_file_has_one_node_until_it_is_forgotten() {
    for config in modes() {
        let share = Share::new(config);
        share.write("a", "content");
        let first = share.lookup(NodeId::ROOT, "a").unwrap();
        let second = share.lookup(NodeId::ROOT, "a").unwrap();
        assert_eq!(first.node, second.node);
        assert_eq!(first.attr.size, 7);
        share.fs.forget(first.node, 1);
        assert_eq!(share.fs.getattr(first.node, None).unwrap().attr.size, 7);
        share.fs.forget(first.node, 1);
        assert!(stale(share.fs.getattr(first.node, None)));
        assert_ne!(share.lookup(NodeId::ROOT, "a").unwrap().node, first.node);
        assert_eq!(share.fs.inodes.len(), 1);
        share.fs.destroy();
        assert_eq!(share.fs.inodes.len(), 0);
        assert!(share.lookup(NodeId::ROOT, "a").is_ok());
        share.fs.forget(NodeId::ROOT, u64::MAX);
        assert!(share.fs.getattr(NodeId::ROOT, None).is_ok());
        assert!(stale(share.fs.getattr(NodeId(0), None)));
        assert!(stale(share.fs.getattr(NodeId(u64::MAX), None)));
    }
}

#[test]
fn hard_links_share_a_node() {
    for config in modes() {
        let share = Share::new(config);
        let made = share.make("a").unwrap();
        let linked = share.fs.link(made.node, NodeId::ROOT, name(c"b")).unwrap();
        assert_eq!(linked.node, made.node);
        assert_eq!(linked.attr.nlink, 2);
        assert_eq!(share.lookup(NodeId::ROOT, "b").unwrap().node, made.node);
        share.fs.forget(made.node, 2);
        assert!(share.fs.getattr(made.node, None).is_ok(), "three references were given");
        share.fs.forget(made.node, 1);
        assert_eq!(share.fs.inodes.len(), 0);
    }
}

#[test]
fn a_rename_keeps_the_node_and_frees_the_name_it_hits() {
    for config in modes() {
        let share = Share::new(config);
        let a = share.make("a").unwrap().node;
        let b = share.make("b").unwrap().node;
        let root = Caller::default();
        let rename = |flags| share.fs.rename(root, NodeId::ROOT, name(c"a"), NodeId::ROOT, name(c"b"), flags);
        assert_eq!(rename(1), Err(Errno::EXIST), "RENAME_NOREPLACE");
        rename(2).unwrap();
        assert_eq!(share.lookup(NodeId::ROOT, "a").unwrap().node, b, "RENAME_EXCHANGE");
        rename(0).unwrap();
        assert_eq!(share.lookup(NodeId::ROOT, "b").unwrap().node, b);
        assert_eq!(share.lookup(NodeId::ROOT, "a").unwrap_err(), Errno::NOENT);
        assert_ne!(a, b);
        assert_eq!(rename(1 << 20), Err(Errno::INVAL));
    }
}

/// ext4 gives the inode number of a deleted file to the next new one. The guest still holds the old
/// node: it must fail, and never reach the new file.
#[test]
fn a_reused_inode_number_is_another_node() {
    for config in modes() {
        let share = Share::new(config);
        // Where a descriptor holds the deleted file, its node still shows it; where none does, it is gone.
        let held = share.fs.config.limits.hot_descriptors > 0
            || share.fs.config.inode_file_handles == InodeFileHandles::Never
            || !has_file_handles(share.dir.path());
        let (mut nodes, mut numbers, mut reused) = (HashSet::new(), HashSet::new(), 0);
        for turn in 0..200 {
            let made = share.make("x").unwrap();
            assert!(nodes.insert(made.node), "turn {turn}: a node stands for two files");
            if !numbers.insert(made.attr.ino) {
                reused += 1;
            }
            share.unlink("x").unwrap();
        }
        for node in nodes {
            if let Ok(reply) = share.fs.getattr(node, None) {
                assert_eq!(reply.attr.nlink, 0, "an old node reaches a file that exists");
                assert!(held);
            }
        }
        eprintln!("{reused} of 200 inode numbers were reused");
    }
}

/// The same without the guest's doing: the host replaces the file, and the guest looks the name up again.
#[test]
fn a_file_replaced_on_the_host_is_another_node() {
    for config in modes() {
        let share = Share::new(config);
        let mut before = None;
        for turn in 0..100 {
            let content = "x".repeat(turn);
            share.write("x", &content);
            let found = share.lookup(NodeId::ROOT, "x").unwrap();
            assert_eq!(found.attr.size, u64::try_from(turn).unwrap());
            assert_ne!(Some(found.node), before);
            if let Some(before) = before
                && let Ok(reply) = share.fs.getattr(before, None)
            {
                assert_eq!(reply.attr.nlink, 0);
            }
            before = Some(found.node);
            std::fs::remove_file(share.dir.path().join("x")).unwrap();
        }
    }
}

#[test]
fn a_young_file_is_recognised_and_settles() {
    let share = Share::new(Config::default());
    let made = share.make("a").unwrap().node;
    assert_eq!(share.lookup(NodeId::ROOT, "a").unwrap().node, made);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for _ in 0..3 {
        assert_eq!(share.lookup(NodeId::ROOT, "a").unwrap().node, made);
    }
    share.fs.forget(made, 5);
    assert_eq!(share.fs.inodes.len(), 0);
}

#[test]
fn many_files_cost_few_descriptors() {
    const FILES: usize = 5000;
    let config = Config {
        inode_file_handles: InodeFileHandles::Mandatory,
        limits: Limits { hot_descriptors: 100, ..Limits::default() },
        ..Config::default()
    };
    let dir = tempfile::tempdir().unwrap();
    if !has_file_handles(dir.path()) {
        eprintln!("skipped: no file handles here");
        return;
    }
    let share = Share::new(config);
    for file in 0..FILES {
        share.make(&format!("f{file}")).unwrap();
    }
    let mut nodes = Vec::new();
    for turn in 0..100_000 {
        let entry = share.lookup(NodeId::ROOT, &format!("f{}", turn % FILES)).unwrap();
        if turn < FILES {
            nodes.push(entry.node);
        } else {
            assert_eq!(nodes[turn % FILES], entry.node);
        }
        share.fs.getattr(entry.node, None).unwrap();
    }
    // Other tests run beside this one.
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 2000, "{open} descriptors");
    assert_eq!(share.fs.inodes.len(), FILES);
    for node in nodes {
        share.fs.forget(node, u64::MAX);
    }
    assert_eq!(share.fs.inodes.len(), 0);
}

#[test]
fn a_descriptor_in_use_outlives_its_place() {
    let limits = Limits { hot_descriptors: 1, ..Limits::default() };
    let share = Share::new(Config { limits, ..Config::default() });
    let (a, b) = (share.make("a").unwrap(), share.make("b").unwrap());
    let inode = share.fs.node(a.node).unwrap();
    let used = share.fs.path_fd(&inode).unwrap();
    for _ in 0..3 {
        let other = share.fs.node(b.node).unwrap();
        share.fs.path_fd(&other).unwrap();
        let stat = statx(&used, c"", AtFlags::EMPTY_PATH, STATX_MASK).unwrap();
        assert_eq!(stat.stx_ino, a.attr.ino);
    }
}

fn has_file_handles(dir: &Path) -> bool {
    let fd: OwnedFd = std::fs::File::open(dir).unwrap().into();
    is_root() && inode::FileHandle::of(fd.as_fd(), c"").is_ok()
}

#[test]
fn the_table_of_nodes_has_a_limit() {
    let limits = Limits { max_nodes: 2, ..Limits::default() };
    let share = Share::new(Config { limits, ..Config::default() });
    for file in ["a", "b", "c"] {
        share.write(file, "");
    }
    let a = share.lookup(NodeId::ROOT, "a").unwrap().node;
    share.lookup(NodeId::ROOT, "b").unwrap();
    assert_eq!(share.lookup(NodeId::ROOT, "c").unwrap_err(), Errno::NFILE);
    assert_eq!(share.lookup(NodeId::ROOT, "a").unwrap().node, a);
    share.fs.forget(a, 2);
    assert!(share.lookup(NodeId::ROOT, "c").is_ok());
}
