//! Does the server mean what another implementation of FUSE means? The same requests go to fuse-backend-rs
//! 0.14 over its own passthrough file system; the answers and the trees that they leave are compared.
//!
//! The oracle is no authority: where it is wrong, `exceptions.rs` says so and why. It speaks FUSE 7.33.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod answer;
mod disguise;
mod encode;
mod exceptions;
mod operation;
mod servers;
mod session;
mod tree;
mod wire;

use std::cell::Cell;

use disguise::Disguise;
use extentfsd::fs::InodeFileHandles;
use operation::Operation;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use session::{Course, Session};

/// Sessions that are tried; `DIFFERENTIAL_SESSIONS` asks for more.
const SESSIONS: u32 = 200;
/// Operations of one session at most.
const LENGTH: usize = 120;

fn converse(
    operations: &[Operation],
    handles: InodeFileHandles,
    disguise: Disguise,
) -> Result<Course, String> {
    let mut session = Session::new(handles, disguise)?;
    for (at, operation) in operations.iter().enumerate().filter(|(_, operation)| !disguise.shows(operation)) {
        match session.perform(operation).map_err(|error| format!("operation {at}: {error}"))? {
            Course::Together => {}
            Course::Parted => return Ok(Course::Parted),
        }
    }
    session.finish()?;
    Ok(Course::Together)
}

fn compare(handles: InodeFileHandles, disguise: Disguise) {
    let cases = std::env::var("DIFFERENTIAL_SESSIONS").map_or(SESSIONS, |n| n.parse().expect("a number"));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4096, ..Config::default() };
    // The same sessions in every run.
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let whole = Cell::new(0);
    let result = runner.run(&operation::sequences(LENGTH), |operations| {
        let course = converse(&operations, handles, disguise).map_err(TestCaseError::fail)?;
        whole.set(whole.get() + u32::from(course == Course::Together));
        Ok(())
    });
    match result {
        // Exceptions end sessions early; they must not eat up the test.
        Ok(()) => assert!(whole.get() * 2 > cases, "only {} of {cases} sessions ran to the end", whole.get()),
        Err(TestError::Fail(reason, operations)) => panic!("{reason}\nafter {operations:#?}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn both_servers_mean_the_same() {
    compare(InodeFileHandles::Never, Disguise::None);
}

#[test]
fn both_servers_mean_the_same_with_file_handles() {
    compare(InodeFileHandles::Prefer, Disguise::None);
}

#[test]
fn it_makes_no_difference_to_a_guest_who_its_users_are_on_the_host() {
    compare(InodeFileHandles::Prefer, Disguise::Mapped);
}
