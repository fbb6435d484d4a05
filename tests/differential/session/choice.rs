//! Which of the files and handles that the guest knows is an operation about?

use super::super::operation::{Changes, Operation, Pick};
use super::{Handle, Node, Session, Target};

/// Picks with such a remainder choose what a guest's kernel would not: a file for a directory, a number
/// that was given back.
const STRANGE: Pick = 15;

impl Session {
    /// The files and handles that an operation is about; `None` where there is none that fits, or where
    /// the guest's kernel would not send it.
    pub(super) fn target(&self, operation: &Operation) -> Option<Target> {
        use Operation as Op;
        let directory = |node: &Node| node.attr.kind() == libc::S_IFDIR;
        let file = |node: &Node| node.attr.kind() == libc::S_IFREG;
        let any = |_: &Node| true;
        let mut target = Target::default();
        match operation {
            Op::Lookup { dir, .. }
            | Op::Symlink { dir, .. }
            | Op::Mknod { dir, .. }
            | Op::Mkdir { dir, .. }
            | Op::Unlink { dir, .. }
            | Op::Rmdir { dir, .. }
            | Op::Create { dir, .. }
            | Op::Opendir { node: dir } => target.node = self.choose(*dir, 0, directory)?,
            Op::Rename { dir, to, .. } => {
                target.node = self.choose(*dir, 0, directory)?;
                target.other = self.choose(*to, 0, directory)?;
            }
            Op::Link { node, dir, .. } => {
                target.node = self.choose(*node, 1, any)?;
                target.other = self.choose(*dir, 0, directory)?;
            }
            Op::Readlink { node } => {
                target.node = self.choose(*node, 0, |node| node.attr.kind() == libc::S_IFLNK)?;
            }
            Op::Open { node, .. } => target.node = self.choose(*node, 0, file)?,
            Op::Setattr { node, set } if set.size.is_some() => target.node = self.choose(*node, 0, file)?,
            Op::Getattr { node }
            | Op::Setattr { node, .. }
            | Op::Statfs { node }
            | Op::Access { node, .. }
            | Op::Setxattr { node, .. }
            | Op::Getxattr { node, .. }
            | Op::Listxattr { node, .. }
            | Op::Removexattr { node, .. } => target.node = self.choose(*node, 0, any)?,
            Op::GetattrOpen { handle }
            | Op::SetattrOpen { handle, .. }
            | Op::Read { handle, .. }
            | Op::Write { handle, .. }
            | Op::Flush { handle }
            | Op::Release { handle }
            | Op::Fsync { handle, .. }
            | Op::Fallocate { handle, .. }
            | Op::Lseek { handle, .. } => target.handle = Some(self.choose_handle(*handle, false)?),
            Op::Fsyncdir { handle } | Op::Releasedir { handle } => {
                target.handle = Some(self.choose_handle(*handle, true)?);
            }
            Op::Forget { .. } | Op::List { .. } => return None,
        }
        if let Some(handle) = target.handle {
            target.node = self.handles[handle].node;
        }
        let linked = self.nodes[target.node].attr.kind() == libc::S_IFLNK;
        if let Op::Setattr { set: Changes { mode: Some(_), .. }, .. } = operation
            && linked
        {
            // Symbolic links have no mode of their own (notify_change).
            return None;
        }
        if let (Op::SetattrOpen { set, .. }, Some(handle)) = (operation, target.handle)
            && set.size.is_some()
            && self.handles[handle].flags & libc::O_ACCMODE.cast_unsigned() == 0
        {
            // ftruncate(2) of a file that is open for reading only does not leave the guest.
            return None;
        }
        if let Op::Symlink { caller, .. }
        | Op::Mknod { caller, .. }
        | Op::Mkdir { caller, .. }
        | Op::Create { caller, .. } = operation
            && !self.nodes[target.node].attr.permits(*caller, (libc::W_OK | libc::X_OK).cast_unsigned())
        {
            // The guest's kernel refuses it (`default_permissions`), and ours relies on that.
            return None;
        }
        Some(target)
    }

    /// One of the known files from the `from`th on that fit, or, where the pick is strange, of all.
    pub(super) fn choose(&self, pick: Pick, from: usize, fits: impl Fn(&Node) -> bool) -> Option<usize> {
        let strange = from == 0 && pick % 16 == STRANGE;
        let eligible = |node: &Node| {
            if node.nlookup > 0 { strange || fits(node) } else { strange && self.is_free(node) }
        };
        nth(pick, (from..self.nodes.len()).filter(|node| eligible(&self.nodes[*node])))
    }

    /// Whether the nodeids of a forgotten file name no other file by now.
    fn is_free(&self, forgotten: &Node) -> bool {
        let taken = |side: usize| {
            self.nodes.iter().any(|node| node.nlookup > 0 && node.ids[side] == forgotten.ids[side])
        };
        !taken(0) && !taken(1)
    }

    /// One of the open handles of files or of directories; of the closed ones where the pick is strange.
    pub(super) fn choose_handle(&self, pick: Pick, directory: bool) -> Option<usize> {
        let open = pick % 16 != STRANGE;
        let fits = |handle: &Handle| {
            handle.directory == directory && handle.open == open && self.nodes[handle.node].nlookup > 0
        };
        nth(pick, (0..self.handles.len()).filter(|handle| fits(&self.handles[*handle])))
    }
}

fn nth(pick: Pick, of: impl Iterator<Item = usize>) -> Option<usize> {
    let all: Vec<_> = of.collect();
    all.get(usize::from(pick).checked_rem(all.len())?).copied()
}
