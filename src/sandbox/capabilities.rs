//! Which privileges are left while a guest is served?

use caps::{CapSet, Capability, CapsHashSet};
use tracing::warn;

use super::Error;
use crate::cli::ModCaps;

/// What serving files on behalf of arbitrary users takes.
const NEEDED: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
];

/// The capabilities to keep if they are there.
fn wanted(changes: &ModCaps, file_handles: bool) -> CapsHashSet {
    let mut set = CapsHashSet::from(NEEDED);
    if file_handles {
        // open_by_handle_at(2)
        set.insert(Capability::CAP_DAC_READ_SEARCH);
    }
    set.extend(&changes.add);
    set.retain(|capability| !changes.drop.contains(capability));
    set
}

/// Gives up all capabilities of the calling thread but those needed, in the bounding set too. To be called
/// before other threads exist: each thread has its own.
pub(super) fn reduce(changes: &ModCaps, file_handles: bool) -> Result<(), Error> {
    let wanted = wanted(changes, file_handles);
    let failed = |set| move |source| Error::Capabilities { set, source };
    let present = caps::read(None, CapSet::Permitted).map_err(failed("permitted"))?;
    let kept: CapsHashSet = wanted.intersection(&present).copied().collect();
    for missing in changes.add.iter().filter(|capability| !present.contains(capability)) {
        warn!("--modcaps: the process does not have {missing}, so it cannot be kept");
    }

    // Dropping from the bounding set takes CAP_SETPCAP. Without it, no_new_privs alone must do.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(failed("effective"))? {
        let bounding = caps::read(None, CapSet::Bounding).map_err(failed("bounding"))?;
        for &capability in bounding.difference(&wanted) {
            caps::drop(None, CapSet::Bounding, capability).map_err(failed("bounding"))?;
        }
    }
    // A kernel without ambient capabilities (before 4.3) has none to clear.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable).map_err(failed("inheritable"))?;
    caps::set(None, CapSet::Effective, &kept).map_err(failed("effective"))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed("permitted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_win_over_the_default() {
        let plain = wanted(&ModCaps::default(), false);
        assert_eq!(plain.len(), NEEDED.len());
        assert!(!plain.contains(&Capability::CAP_DAC_READ_SEARCH));
        assert!(wanted(&ModCaps::default(), true).contains(&Capability::CAP_DAC_READ_SEARCH));

        let changes = ModCaps { add: vec![Capability::CAP_SYS_ADMIN], drop: vec![Capability::CAP_CHOWN] };
        let set = wanted(&changes, false);
        assert!(set.contains(&Capability::CAP_SYS_ADMIN) && !set.contains(&Capability::CAP_CHOWN));
    }
}
