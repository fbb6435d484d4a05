//! What happens when one guest talks to both servers? Each operation is sent to both with the numbers
//! that each of them gave out, and the two answers are compared and remembered.

mod choice;

use std::collections::BTreeMap;

use extentfsd::fs::InodeFileHandles;
use tempfile::TempDir;

use super::answer::{Answer, Attr, DirEntry, Entry, ROOM};
use super::disguise::Disguise;
use super::encode::{self, Numbers, Request};
use super::exceptions::{self, Case};
use super::operation::{Caller, Operation};
use super::servers::{Answers, Oracle, Ours};
use super::tree;
use super::wire::{self, Body, OUT_HEADER};

/// A difference that no exception explains.
pub type Difference = String;

/// Whether both servers are still in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    Together,
    /// By a named exception only one of them did as it was told; there is nothing left to compare.
    Parted,
}

/// A file that the guest knows, or knew.
struct Node {
    /// Its nodeid on either side.
    ids: [u64; 2],
    /// Its inode number on either side.
    inos: [u64; 2],
    /// Its attributes when they were last told, for the checks that a guest's kernel makes itself.
    attr: Attr,
    /// References that the guest holds; with none the nodeids mean nothing any more.
    nlookup: u64,
    /// Handles open on it: a guest does not forget an open file.
    opens: usize,
}

/// An open file or directory.
struct Handle {
    fhs: [u64; 2],
    node: usize,
    directory: bool,
    flags: u32,
    open: bool,
}

/// What an operation is about.
#[derive(Clone, Copy, Default)]
struct Target {
    node: usize,
    other: usize,
    handle: Option<usize>,
}

/// Both servers, each over a share of its own, and what the guest knows of them. Ours come first.
pub struct Session {
    shares: [TempDir; 2],
    servers: [Box<dyn Answers>; 2],
    unique: u64,
    nodes: Vec<Node>,
    handles: Vec<Handle>,
    /// A CREATE failed.
    create_failed: bool,
    /// A FALLOCATE was just done, or tried.
    range_changed: bool,
    /// Our server refers to files by file handle.
    file_handles: bool,
    /// How our server keeps its share.
    disguise: Disguise,
}

impl Session {
    /// Two empty shares, mounted.
    pub fn new(handles: InodeFileHandles, disguise: Disguise) -> Result<Self, Difference> {
        let shares = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
        for share in &shares {
            // So that an unprivileged caller can create there too.
            rustix::fs::chmod(share.path(), rustix::fs::Mode::from_raw_mode(0o777)).expect("chmod");
        }
        let servers: [Box<dyn Answers>; 2] = [
            Box::new(Ours::new(shares[0].path(), handles, disguise)),
            Box::new(Oracle::new(shares[1].path())),
        ];
        let mut session = Self {
            shares,
            servers,
            unique: 1,
            nodes: Vec::new(),
            handles: Vec::new(),
            create_failed: false,
            range_changed: false,
            file_handles: handles == InodeFileHandles::Prefer,
            disguise,
        };
        session.mount()?;
        Ok(session)
    }

    fn mount(&mut self) -> Result<(), Difference> {
        let body = Body::new().u32(7).u32(wire::MINOR).u32(1 << 20).u32(wire::INIT_FLAGS);
        let init = Request { opcode: wire::INIT, node: 0, caller: Caller::Root, body };
        for server in &self.servers {
            let answer = server.ask(&init.bytes(1), ROOM).ok_or("INIT was not answered")?;
            // struct fuse_init_out is 64 bytes from 7.23 on.
            let version = answer.get(OUT_HEADER..OUT_HEADER + 8).ok_or("INIT failed")?;
            assert_eq!((answer.len(), version), (OUT_HEADER + 64, &[7, 0, 0, 0, 33, 0, 0, 0][..]));
        }
        let attrs = self.ask_both([0; 2].map(|_| encode::getattr(1)))?;
        let [Answer::Attr(_, ours), Answer::Attr(_, theirs)] = &attrs else {
            return Err(format!("no attributes of the root: {attrs:?}"));
        };
        let inos = [ours.ino, theirs.ino];
        self.nodes.push(Node { ids: [1; 2], inos, attr: ours.clone(), nlookup: 1, opens: 0 });
        Ok(())
    }

    /// Does one operation on both sides.
    pub fn perform(&mut self, operation: &Operation) -> Result<Course, Difference> {
        match operation {
            Operation::Forget { node, all } => {
                let forgettable = |node: &Node| node.opens == 0;
                if let Some(node) = self.choose(*node, 1, forgettable) {
                    let count = if *all { self.nodes[node].nlookup } else { 1 };
                    self.forget(node, count)?;
                }
                Ok(Course::Together)
            }
            Operation::List { handle, size, plus } => match self.choose_handle(*handle, true) {
                Some(handle) => self.list(operation, handle, *size, *plus),
                None => Ok(Course::Together),
            },
            _ => match self.target(operation) {
                Some(target) => self.exchange(operation, target),
                None => Ok(Course::Together),
            },
        }
    }

    /// Gives back every handle and every reference, in two steps to see that they were counted alike;
    /// then compares what is on the host.
    pub fn finish(mut self) -> Result<(), Difference> {
        for handle in 0..self.handles.len() {
            let Handle { node, directory, open, .. } = self.handles[handle];
            if open {
                let release = if directory {
                    Operation::Releasedir { handle: 0 }
                } else {
                    Operation::Release { handle: 0 }
                };
                self.exchange(&release, Target { node, other: 0, handle: Some(handle) })?;
            }
        }
        for node in 1..self.nodes.len() {
            let nlookup = self.nodes[node].nlookup;
            if nlookup == 0 {
                continue;
            }
            let getattr = Operation::Getattr { node: 0 };
            let target = Target { node, ..Target::default() };
            self.forget(node, nlookup - 1)?;
            self.exchange(&getattr, target)?;
            self.forget(node, 1)?;
            self.exchange(&getattr, target)?;
        }
        let ours = tree::read(self.shares[0].path(), self.disguise);
        let theirs = tree::read(self.shares[1].path(), Disguise::None);
        if ours == theirs { Ok(()) } else { Err(format!("the shares differ:\n{ours:#?}\n{theirs:#?}")) }
    }

    /// Sends one request to each side and decodes the answers.
    fn ask_both(&mut self, requests: [Request; 2]) -> Result<[Answer; 2], Difference> {
        self.unique += 2;
        let ask = |side: usize| {
            let Request { opcode, .. } = requests[side];
            let bytes = requests[side].bytes(self.unique);
            let answer = self.servers[side].ask(&bytes, ROOM);
            // GETXATTR and LISTXATTR with a size of 0 ask for the length; it follows the header.
            let bare_size = bytes.get(40..44) == Some(&[0; 4]);
            let answer = Answer::decode(opcode, self.unique, bare_size, answer.as_deref());
            answer.map_err(|error| format!("{}: {error}", ["ours", "the oracle's"][side]))
        };
        Ok([ask(0)?, ask(1)?])
    }

    fn numbers(&self, target: Target) -> [Numbers; 2] {
        [0, 1].map(|side| Numbers {
            node: self.nodes[target.node].ids[side],
            other: self.nodes[target.other].ids[side],
            fh: target.handle.map_or(0, |handle| self.handles[handle].fhs[side]),
            flags: target.handle.map_or(0, |handle| self.handles[handle].flags),
        })
    }

    /// Has an operation done by both, compares, and remembers what came of it.
    fn exchange(&mut self, operation: &Operation, target: Target) -> Result<Course, Difference> {
        let requests = self.numbers(target).map(|numbers| encode::encode(operation, numbers));
        let [ours, theirs] = self.ask_both(requests)?;
        if let (Operation::Create { .. }, Answer::Failed(_)) = (operation, &theirs) {
            self.create_failed = true;
        }
        if ours.meaning() != theirs.meaning() {
            return self.judge(operation, target, &ours, &theirs);
        }
        match (&ours, &theirs) {
            (Answer::Entry(a), Answer::Entry(b)) => {
                self.learn([a, b])?;
            }
            (Answer::Created(a, fh_a), Answer::Created(b, fh_b)) => {
                let node = self.learn([a, b])?;
                self.opened(operation, node, [*fh_a, *fh_b]);
            }
            (Answer::Opened(fh_a), Answer::Opened(fh_b)) => {
                self.opened(operation, target.node, [*fh_a, *fh_b])
            }
            (Answer::Attr(_, a), Answer::Attr(_, b)) => self.same_file(target.node, [a, b])?,
            // The bits go before it is known whether it can be done.
            (Answer::Done | Answer::Failed(_), _) if matches!(operation, Operation::Fallocate { .. }) => {
                self.range_changed = true;
                let course = self.exchange(&Operation::Getattr { node: 0 }, target);
                self.range_changed = false;
                return course;
            }
            (Answer::Done, Answer::Done) => self.done(operation, target),
            // A write may clear bits of the mode; of a SETATTR that fails a part may have been done.
            (Answer::Number(_), _) if matches!(operation, Operation::Write { .. }) => {
                return self.exchange(&Operation::Getattr { node: 0 }, target);
            }
            (Answer::Failed(_), _) if matches!(operation, Operation::Setattr { .. }) => {
                return self.exchange(&Operation::Getattr { node: 0 }, target);
            }
            _ => {}
        }
        Ok(Course::Together)
    }

    /// What follows from two different answers.
    fn judge(
        &mut self,
        operation: &Operation,
        target: Target,
        ours: &Answer,
        theirs: &Answer,
    ) -> Result<Course, Difference> {
        let forgotten = [target.node, target.other].iter().any(|node| self.nodes[*node].nlookup == 0);
        let closed = [target.node, target.other].iter().any(|node| self.nodes[*node].opens == 0);
        let vanished = self.file_handles && !forgotten && closed && self.has_lost_its_names(target)?;
        let attr = &self.nodes[target.node].attr;
        let Self { create_failed, range_changed, .. } = *self;
        let mapped = self.disguise == Disguise::Mapped;
        let case =
            Case { operation, forgotten, mapped, create_failed, range_changed, vanished, attr, ours, theirs };
        if exceptions::explanation(&case).is_none() {
            return Err(format!(
                "{operation:?} is answered differently:\nours:   {ours:?}\noracle: {theirs:?}"
            ));
        }
        let failed = |answer: &Answer| matches!(answer, Answer::Failed(_));
        let harmless = matches!(operation, Operation::Access { .. }) || failed(ours) && failed(theirs);
        Ok(if harmless { Course::Together } else { Course::Parted })
    }

    /// Whether a file of this operation exists only because the guest knows it; the oracle can tell.
    fn has_lost_its_names(&mut self, target: Target) -> Result<bool, Difference> {
        for node in [target.node, target.other] {
            let getattr = self.nodes[node].ids.map(encode::getattr);
            if let [_, Answer::Attr(_, Attr { nlink: 0, .. })] = self.ask_both(getattr)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn opened(&mut self, operation: &Operation, node: usize, fhs: [u64; 2]) {
        let flags = match operation {
            Operation::Open { flags, .. } | Operation::Create { flags, .. } => flags.cast_unsigned(),
            _ => 0,
        };
        let directory = matches!(operation, Operation::Opendir { .. });
        self.handles.push(Handle { fhs, node, directory, flags, open: true });
        self.nodes[node].opens += 1;
    }

    fn done(&mut self, operation: &Operation, target: Target) {
        let released = matches!(operation, Operation::Release { .. } | Operation::Releasedir { .. });
        if let (true, Some(handle)) = (released, target.handle) {
            self.handles[handle].open = false;
            self.nodes[target.node].opens -= 1;
        }
    }

    /// Takes over a reference; both sides must agree whether the file was known, and as which.
    fn learn(&mut self, entries: [&Entry; 2]) -> Result<usize, Difference> {
        let known = [0, 1].map(|side| {
            self.nodes.iter().position(|node| node.nlookup > 0 && node.ids[side] == entries[side].node)
        });
        if known[0] != known[1] {
            return Err(format!("different files got the same nodeid: {known:?} {entries:?}"));
        }
        let attrs = entries.map(|entry| &entry.attr);
        if let Some(node) = known[0] {
            self.nodes[node].nlookup += 1;
            self.same_file(node, attrs)?;
            return Ok(node);
        }
        self.nodes.push(Node {
            ids: entries.map(|entry| entry.node),
            inos: attrs.map(|attr| attr.ino),
            attr: attrs[0].clone(),
            nlookup: 1,
            opens: 0,
        });
        Ok(self.nodes.len() - 1)
    }

    /// A nodeid keeps its inode number.
    fn same_file(&mut self, node: usize, attrs: [&Attr; 2]) -> Result<(), Difference> {
        let inos = attrs.map(|attr| attr.ino);
        self.nodes[node].attr = attrs[0].clone();
        let known = self.nodes[node].inos;
        if inos == known { Ok(()) } else { Err(format!("inode numbers {known:?} became {inos:?}")) }
    }

    fn forget(&mut self, node: usize, count: u64) -> Result<(), Difference> {
        if count > 0 {
            let requests = self.nodes[node].ids.map(|id| encode::forget(id, count));
            let answers = self.ask_both(requests)?;
            if answers != [Answer::Silent, Answer::Silent] {
                return Err(format!("FORGET was answered: {answers:?}"));
            }
            self.nodes[node].nlookup -= count;
        }
        Ok(())
    }

    /// Reads a whole directory from both sides, each by its own cookies, and compares it as a set.
    fn list(
        &mut self,
        operation: &Operation,
        handle: usize,
        size: u32,
        plus: bool,
    ) -> Result<Course, Difference> {
        let target = Target { node: self.handles[handle].node, other: 0, handle: Some(handle) };
        let numbers = self.numbers(target);
        let mut cookies = [0, 0];
        let mut found = [BTreeMap::new(), BTreeMap::new()];
        loop {
            let requests = [0, 1].map(|side| encode::list(numbers[side], cookies[side], size, plus));
            match self.ask_both(requests)? {
                [Answer::Directory(ours), Answer::Directory(theirs)] => {
                    if ours.is_empty() && theirs.is_empty() {
                        break;
                    }
                    for (side, entries) in [ours, theirs].into_iter().enumerate() {
                        cookies[side] = entries.last().map_or(cookies[side], |entry| entry.next);
                        collect(entries, &mut found[side])?;
                    }
                }
                [ours, theirs] if ours == theirs => return Ok(Course::Together),
                [ours, theirs] => return self.judge(operation, target, &ours, &theirs),
            }
        }
        let [ours, theirs] = found;
        if !ours.keys().eq(theirs.keys()) {
            return Err(format!("{operation:?}: different names:\n{ours:?}\n{theirs:?}"));
        }
        for (ours, theirs) in ours.values().zip(theirs.values()) {
            self.same_entry(ours, theirs)?;
        }
        Ok(Course::Together)
    }

    fn same_entry(&mut self, ours: &DirEntry, theirs: &DirEntry) -> Result<(), Difference> {
        let mut same = ours.kind == theirs.kind;
        if let (Some(a), Some(b)) = (&ours.entry, &theirs.entry) {
            let meaning = [a, b].map(|entry| Answer::Entry(entry.clone()).meaning());
            same &= meaning[0] == meaning[1] && a.attr.ino == ours.ino && b.attr.ino == theirs.ino;
            self.learn([a, b])?;
        }
        if same { Ok(()) } else { Err(format!("different entries:\n{ours:?}\n{theirs:?}")) }
    }
}

/// Adds the entries of one answer. `.` and `..` are left out: the oracle does not list them, and the
/// guest's kernel does not need them.
fn collect(entries: Vec<DirEntry>, into: &mut BTreeMap<Vec<u8>, DirEntry>) -> Result<(), Difference> {
    for entry in entries {
        if entry.name != b"."
            && entry.name != b".."
            && let Some(twice) = into.insert(entry.name.clone(), entry)
        {
            return Err(format!("listed twice: {twice:?}"));
        }
    }
    Ok(())
}
