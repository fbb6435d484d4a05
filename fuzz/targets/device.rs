//! FUSE messages of a guest that has the block device under the share as a disk, or a window over it.
//!
//! What must hold is in `session` and `blocks`, and besides: a device that is not the one under the share, or not fit to be shared, is
//! refused with a reason.

#![no_main]

use std::path::PathBuf;

use extentfsd::extents::{Volume, VolumeError};
use extentfsd_fuzz::disk::Disk;
use extentfsd_fuzz::input::Input;
use extentfsd_fuzz::session::{self, Source};

libfuzzer_sys::fuzz_target!(init: {
    if Disk::all().is_empty() {
        eprintln!("skipped: file systems on loop devices are not to be had here");
        std::process::exit(0);
    }
}, |bytes: &[u8]| run(bytes));

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let disks = Disk::all();
    let choice = usize::from(input.u8());
    let disk = &disks[choice % disks.len()];
    let by_window = choice >= 128;
    if input.once_in(32) {
        mistake(&mut input, disks);
    }
    // The share has to be there.
    drop(disk.ground.fresh_share());
    let read_only = input.once_in(16);
    let (device, share) = (&disk.device, disk.ground.share());
    let source = if by_window {
        match Volume::open_for_window(device, &share, read_only) {
            Ok(volume) => Source::Block(volume),
            // A kernel that lets nobody write to a device that is mounted.
            Err(VolumeError::Device { step: "open it for writing", .. }) => return,
            Err(error) => panic!("{error}"),
        }
    } else {
        let volume = Volume::open(device, &share, b"fuzz", read_only);
        Source::Device(volume.expect("a device that is fit"))
    };
    session::run(input, &disk.ground, source);
}

/// An operator who names another device, or another directory.
fn mistake(input: &mut Input<'_>, disks: &[Disk]) {
    let devices = disks.iter().map(|disk| disk.device.clone());
    let devices: Vec<PathBuf> =
        devices.chain(["/dev/null", "/", "/dev/nothing"].map(PathBuf::from)).collect();
    let shares = disks.iter().map(|disk| disk.ground.canary());
    let others = ["/dev/shm", "/proc", "/dev/null", "/nothing"].map(PathBuf::from);
    let shares: Vec<PathBuf> = shares.chain([disks[0].below()]).chain(others).collect();
    let (device, share) = (input.below(devices.len()), input.below(shares.len()));
    let opened = Volume::open(&devices[device], &shares[share], b"fuzz", false);
    let fits = device < disks.len() && device == share;
    match opened {
        Ok(volume) => {
            assert!(fits, "{} is not under {}", devices[device].display(), shares[share].display());
            volume.flush().expect("a disk that can be synced");
        }
        Err(error) => {
            assert!(!fits, "{error}");
            // Whoever prints it takes out of names what is no text.
            assert!(error.to_string().starts_with("--"), "{error}");
        }
    }
}
