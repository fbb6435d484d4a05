//! The table of inodes against a model, and under many threads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, statx};
use rustix::io::Errno;

use super::{Acquired, Identity, Inode, InodeTable, Inserted, PathFd, Reference, STATX_MASK};
use crate::fuse::NodeId;
use crate::metrics::Limit;

/// An inode with an invented identity; its descriptor is one for all.
fn invent(fd: &PathFd, ino: u64) -> Inode {
    let stat = statx(CWD, c"/", AtFlags::empty(), STATX_MASK).unwrap();
    let mut inode = Inode::new(&stat, Reference::Descriptor { fd: fd.clone(), _room: None });
    inode.identity = Identity::invent(ino);
    inode
}

fn some_fd() -> PathFd {
    PathFd::new(std::fs::File::open("/").unwrap().into())
}

fn table(fd: &PathFd, max: usize) -> InodeTable {
    InodeTable::new(invent(fd, 0), Arc::new(Limit::new("--max-nodes", max)))
}

/// What LOOKUP does: takes a reference to the inode with this number, known or new.
fn look_up(table: &InodeTable, fd: &PathFd, ino: u64) -> Result<NodeId, Errno> {
    let mut new = invent(fd, ino);
    loop {
        if let Acquired::Taken(inode) = table.acquire(&Identity::invent(ino), |_| true) {
            return Ok(inode.node());
        }
        match table.insert(new, None)? {
            Inserted::Added(inode) => return Ok(inode.node()),
            Inserted::Raced(back) => new = back,
        }
    }
}

/// On a file system that gives numbers twice.
#[test]
fn a_file_with_the_numbers_of_the_root_is_an_error() {
    let fd = some_fd();
    let table = table(&fd, 10);
    let Acquired::Other(root) = table.acquire(&Identity::invent(0), |_| false) else { panic!() };
    assert!(matches!(table.insert(invent(&fd, 0), Some(&root)), Err(Errno::IO)));
    assert!(matches!(table.insert(invent(&fd, 0), None), Err(Errno::IO)));
}

#[derive(Clone, Debug)]
enum Step {
    LookUp(u64),
    /// LOOKUP of a number that belongs to another file now.
    Replace(u64),
    /// FORGET of the nodeid that was given out at this turn, or of one never given out.
    Forget(usize, u64),
    Link(usize),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..6_u64).prop_map(Step::LookUp),
        2 => (1..6_u64).prop_map(Step::Replace),
        8 => (any::<usize>(), 0..4_u64).prop_map(|(which, n)| Step::Forget(which, n)),
        2 => any::<usize>().prop_map(Step::Link),
        1 => Just(Step::Clear),
    ]
}

const MAX: usize = 4;

proptest! {
    #[test]
    fn the_table_does_what_the_model_does(steps in prop::collection::vec(step(), 0..120)) {
        let fd = some_fd();
        let table = table(&fd, MAX);
        // nodeid -> (ino, references, attached)
        let mut model: HashMap<NodeId, (u64, u64, bool)> = HashMap::new();
        let mut given: Vec<NodeId> = vec![NodeId::ROOT, NodeId(u64::MAX)];
        for step in steps {
            match step {
                Step::LookUp(ino) => {
                    let known = model.iter().find(|(_, file)| file.0 == ino && file.2).map(|(node, _)| *node);
                    match (known, look_up(&table, &fd, ino)) {
                        (Some(known), answer) => {
                            prop_assert_eq!(answer, Ok(known));
                            model.get_mut(&known).unwrap().1 += 1;
                        }
                        (None, Ok(node)) => {
                            prop_assert!(model.len() < MAX);
                            prop_assert!(!given.contains(&node), "a nodeid was given twice");
                            given.push(node);
                            model.insert(node, (ino, 1, true));
                        }
                        (None, Err(error)) => {
                            prop_assert_eq!(error, Errno::NFILE);
                            prop_assert_eq!(model.len(), MAX);
                        }
                    }
                }
                Step::Replace(ino) => {
                    let Acquired::Other(old) = table.acquire(&Identity::invent(ino), |_| false) else {
                        prop_assert!(!model.values().any(|file| file.0 == ino && file.2));
                        continue;
                    };
                    let file = model.get_mut(&old.node()).unwrap();
                    prop_assert_eq!((file.0, file.2), (ino, true));
                    file.2 = false;
                    match table.insert(invent(&fd, ino), Some(&old)) {
                        Ok(Inserted::Added(new)) => {
                            prop_assert!(!given.contains(&new.node()));
                            given.push(new.node());
                            model.insert(new.node(), (ino, 1, true));
                        }
                        Ok(Inserted::Raced(_)) => prop_assert!(false, "nobody raced"),
                        Err(error) => {
                            prop_assert_eq!(error, Errno::NFILE);
                            prop_assert_eq!(model.len(), MAX);
                        }
                    }
                    prop_assert_eq!(table.reference(&old), Err(Errno::STALE));
                }
                Step::Forget(which, n) => {
                    let node = given[which % given.len()];
                    table.forget(node, n);
                    if let Some(file) = model.get_mut(&node) {
                        file.1 = file.1.saturating_sub(n);
                        if file.1 == 0 {
                            model.remove(&node);
                        }
                    }
                }
                Step::Link(which) => {
                    let node = given[which % given.len()];
                    let answer = table.get(node).map(|inode| table.reference(&inode));
                    match model.get_mut(&node) {
                        Some(file) if file.2 => {
                            prop_assert_eq!(answer, Some(Ok(())));
                            file.1 += 1;
                        }
                        Some(_) => prop_assert_eq!(answer, Some(Err(Errno::STALE))),
                        None => prop_assert!(answer.is_none() || node == NodeId::ROOT),
                    }
                }
                Step::Clear => {
                    table.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(table.len(), model.len());
            prop_assert!(table.get(NodeId::ROOT).is_some());
            for node in &given {
                prop_assert_eq!(table.get(*node).is_some(), model.contains_key(node) || *node == NodeId::ROOT);
            }
        }
    }
}

/// Threads look the same few files up and forget them at once. A thread that holds a reference must
/// find its node; at the end nothing may be left, and nothing may have been counted twice.
#[test]
fn forget_races_lookup() {
    let fd = some_fd();
    let table = Arc::new(table(&fd, 1000));
    let wrong = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            let (table, fd, wrong) = (table.clone(), fd.clone(), wrong.clone());
            std::thread::spawn(move || {
                for turn in 0..20_000_u64 {
                    let ino = 1 + (turn + seed) % 3;
                    let node = look_up(&table, &fd, ino).unwrap();
                    let known = table.get(node).is_some_and(|inode| inode.identity == Identity::invent(ino));
                    if !known {
                        wrong.store(true, Ordering::Relaxed);
                    }
                    table.forget(node, 1);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(!wrong.load(Ordering::Relaxed), "a node vanished under a reference");
    assert_eq!(table.len(), 0);
    assert!((1..4).all(|ino| matches!(table.acquire(&Identity::invent(ino), |_| true), Acquired::Unknown)));
}
