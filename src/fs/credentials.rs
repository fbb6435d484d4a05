//! On whose behalf does a thread act?
//!
//! Whatever is made must belong to the guest's caller from the first moment, follow the set-group-ID rule
//! of its directory and count against the caller's quota. So the thread becomes the caller for the one
//! system call that makes it. Linux keeps credentials by thread; the C library's wrappers change all
//! threads of the process, so the calls here are the raw ones (rustix's `set_thread_*`).
//!
//! Groups go first, then the group, then the user, because the right to change the former ends with the
//! latter; back it goes the other way. Only the *effective* user changes: the real one stays, and with it
//! the permitted capabilities, so that the way back is open. The effective ones the kernel takes from root; from a daemon
//! that is another user and has some they are taken here. With them goes
//! `CAP_DAC_READ_SEARCH`, without which no file handle can be opened: get descriptors first.
//!
//! Guest's ids become host's here (`--translate-uid`), and nowhere else but where SETATTR gives a file away.
//!
//! The guest's kernel has checked the caller's permissions already (virtio-fs mounts always have
//! `default_permissions`), and it alone knows all the groups of the caller, and his capabilities: the root of a user namespace in the
//! guest is an ordinary user by his id, and may make files where its mode alone would not let him. So `CAP_DAC_OVERRIDE` is
//! kept for whatever is new, or the host would refuse what the guest has rightly allowed. Where ids are translated the guest sees
//! other owners than there are, so there the host decides, unless it is not told the one group that matters
//! (`FUSE_CREATE_SUPP_GROUP`) or an ACL may make any other matter. But where the guest's root
//! is another user on the host (`--translate-uid`): a rule says whose his files are, and not that he may not
//! make them, so he keeps that capability and `CAP_FSETID`. What else root may do is not his: he makes no devices.

use rustix::io::Errno;
use rustix::process::{Gid, Uid, getegid, geteuid, getgroups};
use rustix::thread::{
    CapabilitySet, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::Passthrough;
use crate::fuse::abi::FUSE_CREATE_SUPP_GROUP;
use crate::fuse::{Caller, Result};
use crate::identity::{Forbidden, IdTranslation, Translation};

/// The daemon's own credentials, which every thread has when it serves nobody.
pub(super) struct Own {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    /// The effective ones of a daemon that is not root; nothing where it is.
    capabilities: CapabilitySet,
}

impl Own {
    /// Those of this process, now.
    pub(super) fn of_this_process() -> Result<Self> {
        let uid = geteuid();
        let capabilities = if uid.is_root() { CapabilitySet::empty() } else { capabilities(None)?.effective };
        Ok(Self { uid, gid: getegid(), groups: getgroups()?, capabilities })
    }

    /// A daemon that is not root serves root as itself, which is all that it can do.
    fn instead_of_root(&self, id: u32, of_daemon: u32) -> u32 {
        if id == 0 && !self.uid.is_root() { of_daemon } else { id }
    }
}

/// The thread's own credentials come back when this is dropped.
///
/// # Aborts
/// Where they cannot be had back the process ends: a thread that goes on as one guest user would serve
/// the next one's request with the wrong rights.
#[must_use]
pub(super) struct Guard<'a> {
    own: &'a Own,
    uid: bool,
    gid: bool,
    groups: bool,
    capabilities: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let back = || -> Result<()> {
            // First, because the others may need them.
            if self.capabilities {
                set_effective(self.own.capabilities)?;
            }
            if self.uid {
                set_thread_res_uid(None, self.own.uid, None)?;
            }
            if self.gid {
                set_thread_res_gid(None, self.own.gid, None)?;
            }
            if self.groups {
                set_thread_groups(&self.own.groups)?;
            }
            Ok(())
        };
        if let Err(error) = back() {
            tracing::error!(%error, "a thread cannot have its own credentials back");
            std::process::abort();
        }
    }
}

/// Makes this thread act as the caller, with the permission checks left to the guest as far as they can be.
///
/// # Errors
/// `EINVAL` for an impossible id; `EPERM` for a forbidden one, and where the daemon may not act for others.
pub(super) fn assume(
    fs: &Passthrough,
    caller: Caller,
    supplementary_group: Option<u32>,
) -> Result<Guard<'_>> {
    let Translation { users, groups } = &fs.config.translation;
    let guest_knows_better = (users.is_identity() && groups.is_identity())
        || !fs.negotiated(FUSE_CREATE_SUPP_GROUP)
        || fs.serves_acl();
    switch(fs, caller, supplementary_group, guest_knows_better)
}

/// Makes this thread act as the caller with no more rights than the host gives the caller.
///
/// # Errors
/// As [`assume`].
pub(super) fn assume_strictly(
    fs: &Passthrough,
    caller: Caller,
    supplementary_group: Option<u32>,
) -> Result<Guard<'_>> {
    switch(fs, caller, supplementary_group, false)
}

fn switch(
    fs: &Passthrough,
    caller: Caller,
    supplementary_group: Option<u32>,
    override_permissions: bool,
) -> Result<Guard<'_>> {
    let own = &fs.own;
    let Translation { users, groups } = &fs.config.translation;
    let uid = own.instead_of_root(host_id(users, caller.uid)?, own.uid.as_raw());
    let gid = own.instead_of_root(host_id(groups, caller.gid)?, own.gid.as_raw());
    let group = supplementary_group.map(|group| host_id(groups, group)).transpose()?;
    // One that is the caller's group already, which many ids may become, adds nothing; and a daemon that is not privileged
    // could not set it.
    let group = group.filter(|group| *group != gid);
    let mut guard = Guard { own, uid: false, gid: false, groups: false, capabilities: false };
    let (change_uid, change_gid) = (uid != own.uid.as_raw(), gid != own.gid.as_raw());
    // The daemon's groups are not the caller's.
    if group.is_some() || ((change_uid || change_gid) && !own.groups.is_empty()) {
        let groups = group.map(Gid::from_raw);
        set_thread_groups(groups.as_slice())?;
        guard.groups = true;
    }
    if change_gid {
        set_thread_res_gid(None, Gid::from_raw(gid), None)?;
        guard.gid = true;
    }
    if change_uid {
        set_thread_res_uid(None, Uid::from_raw(uid), None)?;
        guard.uid = true;
    }
    let kept = if caller.uid == 0 {
        CapabilitySet::DAC_OVERRIDE | CapabilitySet::FSETID
    } else if override_permissions {
        CapabilitySet::DAC_OVERRIDE
    } else {
        CapabilitySet::empty()
    };
    // A daemon that is not root is itself for the guest's root, and for the user that it is.
    guard.capabilities = !own.capabilities.is_empty() && (change_uid || caller.uid != 0);
    if guard.capabilities || (change_uid && !kept.is_empty()) {
        set_effective(kept)?;
    }
    Ok(guard)
}

/// Makes those of these capabilities effective that the daemon has itself, and no others.
fn set_effective(wanted: CapabilitySet) -> Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective = wanted & sets.permitted;
    set_capabilities(None, sets)
}

/// The host's id that stands for a guest's.
///
/// # Errors
/// `EINVAL`: the last number is no id. To the host's kernel it means "leave it", which here would be the daemon's own.
/// `EPERM`: by a rule nothing may be done in the name of this id, or be given to it.
pub(super) fn host_id(ids: &IdTranslation, guest: u32) -> Result<u32> {
    if guest == u32::MAX {
        return Err(Errno::INVAL);
    }
    ids.to_host(guest).map_err(|Forbidden| Errno::PERM)
}

/// While this lives the thread lacks `CAP_FSETID`, so that the host clears set-user-ID and set-group-ID when
/// it changes a file's contents.
#[must_use]
pub(super) struct WithoutFsetid(bool);

impl WithoutFsetid {
    /// Drops the capability, where the thread has it.
    ///
    /// # Errors
    /// Those of `capset(2)`.
    pub(super) fn enter() -> Result<Self> {
        let mut sets = capabilities(None)?;
        let held = sets.effective.contains(CapabilitySet::FSETID);
        if held {
            sets.effective.remove(CapabilitySet::FSETID);
            set_capabilities(None, sets)?;
        }
        Ok(Self(held))
    }
}

impl Drop for WithoutFsetid {
    fn drop(&mut self) {
        if !self.0 {
            return;
        }
        let back = capabilities(None).and_then(|mut sets| {
            sets.effective |= CapabilitySet::FSETID;
            set_capabilities(None, sets)
        });
        if let Err(error) = back {
            // Less than it should have is safe: set-ID bits are lost where they need not be.
            tracing::error!(%error, "a thread cannot have CAP_FSETID back");
        }
    }
}
