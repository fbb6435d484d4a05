//! References on nodes, names of files and open handles, all at once and against a model.
//!
//! The tables have tests of their own; this is about what the operations do with them: LOOKUP, LINK and whatever makes a
//! name add one reference to the file's one node, however many names it has; what takes names away adds none; a node lives as
//! long as it has one, a handle until its release.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::fuse::{Fh, Release};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const MAX_HANDLES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    LookUp(usize),
    Make(usize),
    Link {
        node: usize,
        name: usize,
    },
    Unlink(usize),
    Rename {
        from: usize,
        to: usize,
    },
    /// Of a node that was given out at some time.
    Forget {
        node: usize,
        references: u64,
    },
    Open {
        node: usize,
        directory: bool,
    },
    /// With a handle that was given out at some time, perhaps in the name of another node.
    Release {
        handle: usize,
        node: Option<usize>,
        directory: bool,
    },
    Destroy,
}

fn step() -> impl Strategy<Value = Step> {
    let (name, any) = (0..NAMES.len(), any::<usize>);
    prop_oneof![
        6 => name.clone().prop_map(Step::LookUp),
        4 => name.clone().prop_map(Step::Make),
        4 => (any(), name.clone()).prop_map(|(node, name)| Step::Link { node, name }),
        2 => name.clone().prop_map(Step::Unlink),
        2 => (name.clone(), name).prop_map(|(from, to)| Step::Rename { from, to }),
        8 => (any(), 0..4_u64).prop_map(|(node, references)| Step::Forget { node, references }),
        6 => (any(), prop::bool::weighted(0.2)).prop_map(|(node, directory)| Step::Open { node, directory }),
        6 => (any(), prop::option::weighted(0.2, any()), prop::bool::weighted(0.2))
            .prop_map(|(handle, node, directory)| Step::Release { handle, node, directory }),
        1 => Just(Step::Destroy),
    ]
}

/// A number that the host cannot give to another file, as it can an inode number.
type File = usize;

#[derive(Default)]
struct Model {
    files: usize,
    names: BTreeMap<usize, File>,
    /// What the guest knows: file and references of a node.
    nodes: HashMap<NodeId, (File, u64)>,
    handles: HashMap<u64, (NodeId, bool)>,
    /// Everything that was ever given out.
    all_nodes: Vec<NodeId>,
    all_handles: Vec<u64>,
}

impl Model {
    /// One reference on a file is given to the guest, by this node.
    fn refer(&mut self, file: File, node: NodeId) -> std::result::Result<(), TestCaseError> {
        let known = self.nodes.iter().find(|(_, (known, _))| *known == file).map(|(node, _)| *node);
        match known {
            Some(known) => prop_assert_eq!(node, known, "a file has one node"),
            None => {
                prop_assert!(!self.all_nodes.contains(&node), "a nodeid was given twice");
                self.all_nodes.push(node);
            }
        }
        self.nodes.entry(node).or_insert((file, 0)).1 += 1;
        Ok(())
    }

    fn make(&mut self, name: usize) -> File {
        self.files += 1;
        self.names.insert(name, self.files);
        self.files
    }

    fn is_named(&self, file: File) -> bool {
        self.names.values().any(|named| *named == file)
    }
}

fn release(share: &Share, node: NodeId, fh: u64, directory: bool) -> Result<()> {
    match directory {
        true => share.fs.releasedir(node, Fh(fh)),
        false => share.fs.release(node, &Release { fh: Fh(fh), lock_owner: None, flock_unlock: false }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nodes_and_handles_live_as_long_as_the_model_says(
        mode in 0..3_usize,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let config = modes()[mode].clone();
        let by_descriptor = config.inode_file_handles == InodeFileHandles::Never;
        let limits = Limits { max_handles: MAX_HANDLES, ..config.limits };
        let share = Share::new(Config { limits, ..config });
        let mut model = Model { all_nodes: vec![NodeId::ROOT], ..Model::default() };
        for step in steps {
            match step {
                Step::LookUp(name) => match (share.lookup(NodeId::ROOT, NAMES[name]), model.names.get(&name)) {
                    (Ok(entry), Some(file)) => model.refer(*file, entry.node)?,
                    (answer, named) => prop_assert_eq!((answer, named), (Err(Errno::NOENT), None)),
                },
                Step::Make(name) => match share.make(NAMES[name]) {
                    Ok(entry) => {
                        prop_assert!(!model.names.contains_key(&name));
                        let file = model.make(name);
                        model.refer(file, entry.node)?;
                    }
                    Err(error) => {
                        prop_assert_eq!(error, Errno::EXIST);
                        prop_assert!(model.names.contains_key(&name));
                    }
                },
                Step::Link { node, name } => {
                    let node = model.all_nodes[node % model.all_nodes.len()];
                    let answer = share.fs.link(node, NodeId::ROOT, Name::new(&c(NAMES[name])).unwrap());
                    let file = model.nodes.get(&node).map(|(file, _)| *file).filter(|file| model.is_named(*file));
                    match (answer, file) {
                        (Ok(entry), Some(file)) => {
                            prop_assert_eq!(entry.node, node);
                            prop_assert!(model.names.insert(name, file).is_none());
                            model.refer(file, node)?;
                        }
                        (Ok(_), None) => prop_assert!(false, "a name for a file that is gone"),
                        (Err(error), Some(_)) => {
                            prop_assert_eq!(error, Errno::EXIST);
                            prop_assert!(model.names.contains_key(&name));
                        }
                        (Err(_), None) => {}
                    }
                }
                Step::Unlink(name) => {
                    let named = model.names.remove(&name).ok_or(Errno::NOENT);
                    prop_assert_eq!(share.unlink(NAMES[name]), named.map(drop));
                }
                Step::Rename { from, to } => {
                    let (old, new) = (c(NAMES[from]), c(NAMES[to]));
                    let (old, new) = (Name::new(&old).unwrap(), Name::new(&new).unwrap());
                    let answer = share.fs.rename(Caller::default(), NodeId::ROOT, old, NodeId::ROOT, new, 0);
                    let file = model.names.get(&from).copied();
                    prop_assert_eq!(answer, file.map(drop).ok_or(Errno::NOENT));
                    // rename(2) of one name of a file to another of the same does nothing.
                    if let Some(file) = file.filter(|file| model.names.get(&to) != Some(file)) {
                        model.names.remove(&from);
                        model.names.insert(to, file);
                    }
                }
                Step::Forget { node, references } => {
                    let node = model.all_nodes[node % model.all_nodes.len()];
                    share.fs.forget(node, references);
                    if let Some((_, held)) = model.nodes.get_mut(&node) {
                        *held = held.saturating_sub(references);
                        if *held == 0 {
                            model.nodes.remove(&node);
                        }
                    }
                }
                Step::Open { node, directory } => {
                    let node = model.all_nodes[node % model.all_nodes.len()];
                    let opened = match directory {
                        true => share.fs.opendir(Caller::default(), node, 0),
                        false => share.fs.open(Caller::default(), node, 0, false),
                    };
                    match opened {
                        Ok(opened) => {
                            prop_assert!(node == NodeId::ROOT || model.nodes.contains_key(&node));
                            prop_assert!(model.handles.len() < MAX_HANDLES);
                            prop_assert!(!model.all_handles.contains(&opened.fh.0), "a handle was given twice");
                            model.all_handles.push(opened.fh.0);
                            model.handles.insert(opened.fh.0, (node, directory));
                        }
                        Err(error) => {
                            let (file, full) = (model.nodes.get(&node), model.handles.len() == MAX_HANDLES);
                            let there = file.is_some_and(|(file, _)| by_descriptor || model.is_named(*file));
                            // Every node but the root is a file.
                            let possible = if node == NodeId::ROOT { directory } else { there && !directory };
                            prop_assert!(full || !possible, "{error}");
                            prop_assert!(!full || !possible || error == Errno::NFILE, "{error}");
                        }
                    }
                }
                Step::Release { handle, node, directory } => {
                    let Some(count) = Some(model.all_handles.len()).filter(|count| *count > 0) else { continue };
                    let fh = model.all_handles[handle % count];
                    let owner = model.handles.get(&fh).copied();
                    let named = match node {
                        Some(node) => model.all_nodes[node % model.all_nodes.len()],
                        None => owner.map_or(NodeId::ROOT, |(node, _)| node),
                    };
                    let right = owner == Some((named, directory));
                    prop_assert_eq!(release(&share, named, fh, directory).is_ok(), right, "{:?}", owner);
                    if right {
                        model.handles.remove(&fh);
                    }
                }
                Step::Destroy => {
                    share.fs.destroy();
                    model.nodes.clear();
                    model.handles.clear();
                }
            }
            prop_assert_eq!(share.fs.inodes.len(), model.nodes.len());
            for node in &model.all_nodes[1..] {
                let answer = share.fs.getattr(*node, None);
                match model.nodes.get(node) {
                    None => prop_assert!(stale(answer)),
                    // Without a name a file that nobody holds open is gone, and its file handle leads nowhere.
                    Some((file, _)) if by_descriptor || model.is_named(*file) => {
                        let links = model.names.values().filter(|named| *named == file).count();
                        prop_assert_eq!(answer.map(|reply| reply.attr.nlink as usize), Ok(links));
                    }
                    Some(_) => {}
                }
            }
        }
        // Every handle that is left works, and no other.
        for fh in &model.all_handles {
            let expected = model.handles.get(fh).copied();
            let (node, directory) = expected.unwrap_or((NodeId::ROOT, false));
            prop_assert_eq!(release(&share, node, *fh, directory).is_ok(), expected.is_some());
        }
    }
}
