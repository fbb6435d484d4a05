//! The load generator against the daemon: does it measure, does it check, and does it refuse in one line?
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const BENCH: &str = env!("CARGO_BIN_EXE_extentfsd-bench");

/// A daemon that needs no privileges.
fn daemon() -> String {
    format!("{} --sandbox none", env!("CARGO_BIN_EXE_extentfsd"))
}

fn bench(words: &[&str]) -> Output {
    Command::new(BENCH).args(words).stdin(Stdio::null()).output().expect("the program starts")
}

/// Runs it on a small file with JSON output; the parsed JSON and what was printed.
fn measure(words: &[&str]) -> (Value, String) {
    let directory = TempDir::new().expect("directory");
    let json = directory.path().join("result.json");
    let share = directory.path().join("share");
    std::fs::create_dir(&share).expect("share");
    let small = ["--file-size", "16M", "--files", "50", "--depth", "4", "--warmup", "0", "--rounds", "2"];
    let output = Command::new(BENCH)
        .args(small)
        .arg("--json")
        .arg(&json)
        .arg("--share")
        .arg(&share)
        .args(words)
        .output()
        .expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    assert!(!text(&output.stderr).contains('\u{1b}'), "no control sequences without a terminal");
    assert_eq!(std::fs::read_dir(&share).expect("share").count(), 0, "everything was removed");
    let json = std::fs::read_to_string(&json).expect("JSON was written");
    (serde_json::from_str(&json).expect("JSON"), text(&output.stdout))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn every_workload_is_measured_and_its_data_verified() {
    let (json, table) =
        measure(&["--work", "all", "--time", "0.2", "--verify-all", "--direct", "--buffered", &daemon()]);
    let cases = json["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 16 + 8, "eight of them once more, buffered");
    for case in cases {
        let result = &case["results"][0];
        let name = case["name"].as_str().expect("name");
        assert!(table.contains(name), "{table}");
        assert_eq!(result["rounds"].as_array().map(Vec::len), Some(2), "{name}");
        for round in result["rounds"].as_array().expect("rounds") {
            assert!(number(&round["ops"]) > 0.0, "{name}: {round}");
            assert!(number(&round["p50_us"]) > 0.0, "{name}: {round}");
            assert!(number(&round["p50_us"]) <= number(&round["p99_us"]), "{name}: {round}");
            assert!(number(&round["p99_us"]) <= number(&round["p999_us"]), "{name}: {round}");
            assert!(number(&round["cpu_us_per_op"]) > 0.0, "{name}: {round}");
            assert!(number(&round["peak_rss_kib"]) > 1000.0, "{name}: {round}");
        }
        let moves = name.contains("read ") || name.contains("write ") || name.contains("rw ");
        assert_eq!(
            number(&result["mib_per_second"]["median"]) > 0.0,
            moves || case["block_size"] != 0,
            "{name}"
        );
        let stall = name.starts_with("stall");
        assert_eq!(result["p99_disturbed_to_quiet"].is_object(), stall, "{name}");
    }
}

#[test]
fn several_queues_and_every_kind_of_ring() {
    for options in [
        &["--queues", "3"][..],
        &["--queues", "2", "--no-indirect", "--queue-size", "256"],
        &["--no-event-idx"],
        &["--segment", "64K", "--block-size", "256K"],
    ] {
        let daemon = daemon();
        let mut words = vec!["--work", "randrw,create,mixed", "--time", "0.1", "--no-syscalls", &daemon];
        words.extend(options);
        measure(&words);
    }
}

#[test]
fn a_number_of_operations_is_exact() {
    let daemon = daemon();
    let (json, _) = measure(&["--work", "getattr,randwrite", "--ops", "1001", "--queues", "2", &daemon]);
    for case in json["cases"].as_array().expect("cases") {
        for round in case["results"][0]["rounds"].as_array().expect("rounds") {
            assert_eq!(round["ops"], 1001);
        }
    }
}

#[test]
fn comparisons_have_ratios_and_pictures() {
    let directory = TempDir::new().expect("directory");
    let (svg, markdown) = (directory.path().join("a.svg"), directory.path().join("a.md"));
    let (first, second) = (daemon(), format!("{} --cache never", daemon()));
    let paths = [svg.to_str().expect("path"), markdown.to_str().expect("path")];
    let (json, table) = measure(&[
        "--work",
        "randread,getattr",
        "--time",
        "0.1",
        "--svg",
        paths[0],
        "--markdown",
        paths[1],
        "--compare",
        &first,
        &second,
        "host",
    ]);
    let compared = |case: usize| json["cases"][case]["comparisons"].as_array().expect("comparisons").clone();
    let labels: Vec<_> = compared(0).iter().map(|one| one["label"].clone()).collect();
    assert_eq!(labels, ["extentfsd-2", "host"]);
    assert_eq!(compared(1).len(), 1, "the host has no getattr");
    for one in compared(0) {
        let ratio = &one["ops_per_second"];
        assert!(number(&ratio["min"]) <= number(&ratio["median"]), "{one}");
        assert!(number(&ratio["median"]) <= number(&ratio["max"]), "{one}");
    }
    assert!(table.contains("host / extentfsd"), "{table}");
    let svg = std::fs::read_to_string(svg).expect("picture");
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("<rect x=").count(), 3 + 2, "a bar for each");
    let markdown = std::fs::read_to_string(markdown).expect("tables");
    assert!(markdown.contains("| randread 4K direct | extentfsd-2 |") && markdown.contains("--cache never"));
}

/// Nonsense, and what the one line about it must name.
#[test]
fn nonsense_is_refused_in_one_line() {
    for (words, named) in [
        (&["x", "--depth", "0"][..], "--depth"),
        (&["x", "--depth", "-1"], "-1"),
        (&["x", "--depth", "65536"], "--depth"),
        (&["x", "--depth", "1024"], "--depth"),
        (&["x", "--depth", "many"], "--depth"),
        (&["x", "--queues", "0"], "--queues"),
        (&["x", "--queues", "65"], "--queues"),
        (&["x", "--queue-size", "100"], "--queue-size"),
        (&["x", "--work", "seqread", "--queue-size", "128"], "--queue-size"),
        (&["x", "--block-size", "0"], "--block-size"),
        (&["x", "--block-size", "4095"], "--block-size"),
        (&["x", "--block-size", "8M"], "--block-size"),
        (&["x", "--block-size", "4X"], "--block-size"),
        (&["x", "--segment", "1"], "--segment"),
        (&["x", "--file-size", "0"], "--file-size"),
        (&["x", "--file-size", "4097"], "--file-size"),
        (&["x", "--file-size", "99999999999G"], "--file-size"),
        (&["x", "--file-size", "1M"], "--file-size"),
        (&["x", "--files", "0"], "--files"),
        (&["x", "--time", "0"], "--time"),
        (&["x", "--time", "-1"], "-1"),
        (&["x", "--time", "inf"], "--time"),
        (&["x", "--time", "NaN"], "--time"),
        (&["x", "--time", "1e9"], "--time"),
        (&["x", "--time", "1", "--ops", "1"], "--ops"),
        (&["x", "--ops", "0"], "--ops"),
        (&["x", "--warmup", "-0.5"], "-0"),
        (&["x", "--rounds", "0"], "--rounds"),
        (&["x", "--work", "dance"], "--work"),
        (&["x", "--work", ""], "--work"),
        (&["x", "--share", "/nonexistent"], "--share"),
        (&["x", "--json", "/nonexistent/file"], "--json"),
        (&["x", "--markdown", "/"], "--markdown"),
        (&["x", "--svg", "/proc/nonexistent/x"], "--svg"),
        (&["x", "--queues", "64", "--depth", "900", "--block-size", "1M", "--file-size", "1000G"], "--depth"),
        (&["x", "--bogus"], "--bogus"),
        (&["x", "y"], "'y'"),
        (&["x", "--compare", "a", "b"], "--compare"),
        (&["--compare", "a"], "--compare"),
        (&["--compare", "a", "host", "--work", "getattr"], "--work"),
        (&["host"], "host"),
        (&["'x"], "COMMAND"),
        (&[""], "COMMAND"),
        (&["--depth", "4"], "COMMAND"),
    ] {
        let output = bench(words);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(text.starts_with("extentfsd-bench: ") && text.contains(named), "{words:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{words:?}: {text}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }
    assert_eq!(bench(&[]).status.code(), Some(2));
    assert_eq!(bench(&["--help"]).status.code(), Some(0));
}

/// Daemons that do not work, and what the one line says.
#[test]
fn daemons_that_fail_are_told_with_what_they_said() {
    for (command, said) in [
        ("/nonexistent/daemon", "starting /nonexistent/daemon"),
        ("sh -c 'echo it is broken >&2; exit 3' {share} {socket}", "it is broken"),
        ("true", "before it listened"),
        (&format!("{} --no-such-option", daemon()), "no-such-option"),
        (&format!("{} --queues 1", daemon()), "--queues"),
    ] {
        let output =
            bench(&["-q", "--work", "getattr", "--queues", "2", "--files", "5", "--time", "0.1", command]);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{command}: {text}");
        assert!(text.contains(said), "{command}: {text}");
        assert_eq!(text.lines().count(), 1, "{command}: {text}");
    }
}

/// The first file of that name below the run's own directory in the share.
fn wait_for_file(share: &Path, name: &str) -> PathBuf {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let own = std::fs::read_dir(share).expect("share").flatten().next();
        if let Some(file) = own.map(|own| own.path().join(name)).filter(|file| file.exists()) {
            return file;
        }
        assert!(Instant::now() < end, "no {name} in {}", share.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn data_that_changes_behind_its_back_is_found() {
    let directory = TempDir::new().expect("directory");
    let child = Command::new(BENCH)
        .args(["--work", "randread", "--buffered", "--file-size", "1M", "--depth", "4", "--time", "30"])
        .args(["--rounds", "1", "--no-syscalls", "--share"])
        .arg(directory.path())
        .arg(daemon())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let file = wait_for_file(directory.path(), "data");
    while std::fs::metadata(&file).expect("data").len() < 1 << 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Now and then, because the prefill may still be under way.
    let end = Instant::now() + Duration::from_secs(20);
    let mut child = child;
    while child.try_wait().expect("wait").is_none() {
        assert!(Instant::now() < end, "nothing was found");
        if let Ok(data) = std::fs::OpenOptions::new().write(true).open(&file) {
            data.write_all_at(&[0xee; 8], 40 * 4096).expect("damage");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().expect("end");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("wrong data: the 4 KiB at offset 163840"), "{text}");
    assert_eq!(std::fs::read_dir(directory.path()).expect("share").count(), 0, "everything was removed");
}

#[test]
fn a_daemon_that_dies_ends_the_run() {
    let directory = TempDir::new().expect("directory");
    let pid = directory.path().join("pid");
    let share = directory.path().join("share");
    std::fs::create_dir(&share).expect("share");
    let command = format!("sh -c 'echo $$ > {}; exec {} \"$@\"' sh", pid.display(), daemon());
    let child = Command::new(BENCH)
        .args([
            "-q",
            "--work",
            "getattr",
            "--files",
            "5",
            "--time",
            "30",
            "--rounds",
            "1",
            "--no-syscalls",
            "--share",
        ])
        .arg(&share)
        .arg(command)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let end = Instant::now() + Duration::from_secs(20);
    let number = loop {
        if let Ok(Ok(number)) = std::fs::read_to_string(&pid).map(|text| text.trim().parse::<i32>()) {
            break number;
        }
        assert!(Instant::now() < end, "the daemon did not start");
        std::thread::sleep(Duration::from_millis(5));
    };
    std::thread::sleep(Duration::from_millis(500));
    let number = rustix::process::Pid::from_raw(number).expect("a process");
    rustix::process::kill_process(number, rustix::process::Signal::KILL).expect("kill");
    let output = child.wait_with_output().expect("end");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(std::fs::read_dir(&share).expect("share").count(), 0, "everything was removed");
}
