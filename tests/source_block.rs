//! What does a write through the window cost, by way of the file system (source `file`) and on the device itself (source `block`)?
//!
//! A measurement, run by `ci/measure window`. A window of a device alone, with no file system, says what there is to save.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod frontend;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use extentfsd::extents::{Access, Identity, Volume, Window};
use extentfsd::fs::{Config, Passthrough};
use extentfsd::fuse::abi::FUSE_POSIX_ACL;
use extentfsd::fuse::{Address, Caller, FileSystem, MapPurpose, MapRequest, Name, NodeId, Place};
use extentfsd::ring::EngineKind;
use frontend::GuestConfig;
use frontend::disk::{Disk, OK, OUT, file_by_way_of, head};
use rustix::fs::{Mode, OFlags, open};
use rustix::time::ClockId;
use tempfile::TempDir;

const BLOCK: u64 = 4096;
/// Bytes that are written to, over and over.
const SIZE: u64 = 256 << 20;
const DEPTH: usize = 16;
const WRITES: usize = 200_000;
const ROUNDS: usize = 9;

/// A disk in memory, and on it a file system or nothing.
struct Target {
    name: &'static str,
    device: PathBuf,
    mount: Option<TempDir>,
    _image: tempfile::NamedTempFile,
}

fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().expect(words[0]);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Target {
    fn new(name: &'static str, make: Option<&[&str]>) -> Self {
        let image = tempfile::Builder::new().prefix("extentfsd-measure").tempfile_in("/dev/shm").unwrap();
        image.as_file().set_len(1 << 30).unwrap();
        let device = run(&["losetup", "--find", "--show", "--direct-io=on", image.path().to_str().unwrap()]);
        let mount = make.map(|make| {
            let dir = TempDir::new().unwrap();
            run(&[make, &[&device]].concat());
            run(&["mount", &device, dir.path().to_str().unwrap()]);
            dir
        });
        Self { name, device: device.into(), mount, _image: image }
    }

    /// What is written to: filled, so that each write goes to blocks that were written before.
    fn file(&self) -> PathBuf {
        let path = self.mount.as_ref().map_or_else(|| self.device.clone(), |dir| dir.path().join("file"));
        let file = File::options().write(true).create(true).truncate(false).open(&path).unwrap();
        let mebibyte = vec![0x5a; 1 << 20];
        for at in 0..SIZE >> 20 {
            std::os::unix::fs::FileExt::write_all_at(&file, &mebibyte, at << 20).unwrap();
        }
        file.sync_all().unwrap();
        path
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let ended = |words: &[&str]| {
            // An io_uring lets go of its files only some time after its end.
            let mut attempts =
                (0..50).inspect(|attempt| std::thread::sleep(Duration::from_millis(attempt * 10)));
            attempts.any(|_| {
                Command::new(words[0]).args(&words[1..]).output().is_ok_and(|out| out.status.success())
            })
        };
        let unmounted =
            self.mount.as_ref().is_none_or(|dir| ended(&["umount", dir.path().to_str().unwrap()]));
        if !unmounted || !ended(&["losetup", "--detach", self.device.to_str().unwrap()]) {
            eprintln!("{} is left behind", self.device.display());
        }
    }
}

/// Nanoseconds of processor time of this process, or of this thread.
fn spent(clock: ClockId) -> f64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

#[derive(Clone)]
struct Round {
    /// Microseconds of processor time that the device spends on a write.
    cost: f64,
    /// Writes per second.
    rate: f64,
}

/// Where a window's bytes go.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// To a device. It has no size as files do, so the file stands in for what is asked for it.
    Device(&'a Path),
    /// To a file of a share, by way of its file system.
    File,
    /// To its blocks on this device.
    Blocks,
}

impl Target {
    /// A window as the daemon makes it, the address in it of the file that is written to, and what keeps that granted.
    fn window(&self, file: &Path, way: Way<'_>) -> (Arc<Window>, u64, Option<Passthrough>) {
        let window = Window::new(Identity::new(b"efs-test", 512, false));
        let (window, root) = match (way, &self.mount) {
            (Way::Device(sized), _) => {
                let window = Arc::new(window);
                let region =
                    window.grant(1, &file_by_way_of(sized, file, true), SIZE, 0, Access::Write).unwrap();
                return (window, region.address, None);
            }
            (Way::File, Some(mount)) => (window, mount.path()),
            (Way::Blocks, Some(mount)) => (
                window.over(Volume::open_for_window(&self.device, mount.path(), false).unwrap()),
                mount.path(),
            ),
            (_, None) => panic!("{} has no files", self.name),
        };
        let window = Arc::new(window);
        let directory = |path: &Path| open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let share =
            Passthrough::new(Config::default(), directory(root), directory(Path::new("/proc/self/fd")));
        let share = share.unwrap().with_window(Arc::clone(&window));
        share.init(!FUSE_POSIX_ACL).unwrap();
        let node = share.lookup(Caller::default(), NodeId::ROOT, Name::new(c"file").unwrap()).unwrap().node;
        let flags = (libc::O_RDWR | libc::O_DIRECT).cast_unsigned();
        share.open(Caller::default(), node, flags, false).unwrap();
        let ask = MapRequest { purpose: MapPurpose::Write, position: 0, count: 1 };
        let Place::Mapped(Some(Address { byte, .. })) = share.map(node, &ask).unwrap().read.place else {
            panic!("no region")
        };
        (window, byte, Some(share))
    }
}

/// Processor time of a write, and writes per second.
fn measure(target: &Target, file: &Path, way: Way<'_>) -> Round {
    let (window, address, share) = target.window(file, way);
    let config = GuestConfig { queue_size: 256, ..GuestConfig::default() };
    let mut disk = Disk::attach(&window, EngineKind::Uring, config);
    let data = [0xa5; BLOCK as usize];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut offset = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % (SIZE / BLOCK) * BLOCK
    };
    let mut begin = Instant::now();
    let (mut process, mut thread) = (0.0, 0.0);
    for round in 0..WRITES / DEPTH {
        if round == WRITES / DEPTH / 10 {
            begin = Instant::now();
            process = spent(ClockId::ProcessCPUTime);
            thread = spent(ClockId::ThreadCPUTime);
        }
        let mark = disk.guest.ram.mark();
        let placed: Vec<_> = (0..DEPTH)
            .map(|_| disk.offer(0, &head(OUT, address + offset()), &data, 0, BLOCK as usize))
            .collect();
        disk.wait(0, DEPTH);
        assert!(placed.into_iter().all(|placed| disk.status(placed) == OK));
        disk.guest.ram.rewind(mark);
    }
    let writes = (WRITES - WRITES / 10) as f64;
    let process = spent(ClockId::ProcessCPUTime) - process;
    let thread = spent(ClockId::ThreadCPUTime) - thread;
    let round =
        Round { cost: (process - thread) / 1000.0 / writes, rate: writes / begin.elapsed().as_secs_f64() };
    disk.detach();
    window.revoke_all();
    drop(share);
    round
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

#[test]
#[ignore = "a measurement: ci/measure window"]
fn what_a_write_costs_by_each_source() {
    let targets = [
        Target::new("device", None),
        Target::new("ext4", Some(&["mkfs.ext4", "-q"])),
        Target::new("XFS", Some(&["mkfs.xfs", "-q", "-m", "reflink=0,rmapbt=0"])),
    ];
    let files: Vec<_> = targets.iter().map(Target::file).collect();
    let sized = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    sized.as_file().set_len(SIZE).unwrap();
    let [raw, ext4, xfs] = &targets;
    let ways = [
        (raw, &files[0], "none", Way::Device(sized.path())),
        (ext4, &files[1], "file", Way::File),
        (ext4, &files[1], "block", Way::Blocks),
        (xfs, &files[2], "file", Way::File),
        (xfs, &files[2], "block", Way::Blocks),
    ];
    let mut rounds = vec![Vec::new(); ways.len()];
    for round in 1..=ROUNDS {
        for ((target, file, _, way), rounds) in ways.iter().zip(&mut rounds) {
            rounds.push(measure(target, file, *way));
        }
        eprintln!("round {round} of {ROUNDS}");
    }
    println!("| target | source | CPU us a write | min..max | writes/s | CPU, `file` = 1 | min..max |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: |");
    for (at, ((target, _, source, _), results)) in ways.iter().zip(&rounds).enumerate() {
        let column = |value: &dyn Fn(&Round) -> f64| sorted(results.iter().map(value));
        let cost = column(&|round| round.cost);
        // Beside the source `file` of the same file system, in the same round; the device beside the first.
        let file = &rounds[if at == 0 { 1 } else { at - (at + 1) % 2 }];
        let ratio = sorted(file.iter().zip(results).map(|(file, this)| this.cost / file.cost));
        println!(
            "| {} | {source} | {:.2} | {:.2}..{:.2} | {:.0} | {:.2} | {:.2}..{:.2} |",
            target.name,
            cost[ROUNDS / 2],
            cost[0],
            cost[ROUNDS - 1],
            column(&|round| round.rate)[ROUNDS / 2],
            ratio[ROUNDS / 2],
            ratio[0],
            ratio[ROUNDS - 1],
        );
    }
}
