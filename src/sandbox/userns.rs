//! How does the process get into a user namespace with the right ids?
//!
//! The maps must be written from outside, by a process with the old credentials, after the namespace exists. So a
//! helper is forked first, which stays outside, waits for the word, and answers with what went wrong.

use std::fs::{File, write};
use std::io::{Read, Write, pipe};
use std::process::Command;

use rustix::process::{Gid, Pid, Uid, WaitOptions, getpid, waitpid};
use rustix::thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::idmap::{Caller, Kind, Writer, arguments, text};
use super::sys::{self, Fork};
use super::{Error, namespace};
use crate::cli;

/// Enters a user namespace if the process is not privileged or ids are to be mapped.
pub(super) fn enter_if_needed(options: &cli::Sandbox) -> Result<(), Error> {
    let caller = Caller::current();
    if caller.user == 0 && options.uid_map.is_empty() && options.gid_map.is_empty() {
        return Ok(());
    }
    let failed = |step| {
        move |source| Error::Step {
            mode: namespace::MODE,
            step,
            advice: "the host must allow user namespaces; run as root, or use --sandbox none",
            source,
        }
    };
    let (mut entered, tell) = pipe().map_err(failed("make a pipe"))?;
    let (mut answer, mut reply) = pipe().map_err(failed("make a pipe"))?;
    let target = getpid();
    let helper = match sys::fork().map_err(failed("make a process"))? {
        Fork::Parent(helper) => helper,
        Fork::Child => {
            drop((tell, answer));
            let told = entered.read_exact(&mut [0]).is_ok();
            if told && let Err(reason) = write_maps(target, caller, options) {
                // The reader notices a missing map by itself if even this fails.
                let _ = reply.write_all(reason.as_bytes());
            }
            sys::exit_now(0);
        }
    };
    drop((entered, reply));
    let unshared = sys::unshare(UnshareFlags::NEWUSER);
    let mut reason = String::new();
    let heard = match &unshared {
        Ok(()) => (&tell).write_all(&[0]).and_then(|()| answer.read_to_string(&mut reason)),
        // Closing the pipe without a word ends the helper.
        Err(_) => Ok(0),
    };
    drop(tell);
    // It ends by itself now; how does not matter.
    let _ = waitpid(Some(helper), WaitOptions::empty());
    unshared.map_err(|errno| failed("create a user namespace")(errno.into()))?;
    heard.map_err(failed("map ids"))?;
    match reason.split_once(' ') {
        None => Ok(()),
        Some((option, reason)) => {
            let kind = if option == Kind::Group.option() { Kind::Group } else { Kind::User };
            Err(Error::IdMap { option: kind.option(), reason: reason.to_owned() })
        }
    }
}

/// Runs outside: maps the ids of `target`. The error is the option and the reason, with a blank between.
fn write_maps(target: Pid, caller: Caller, options: &cli::Sandbox) -> Result<(), String> {
    for kind in Kind::BOTH {
        let asked = match kind {
            Kind::User => &options.uid_map,
            Kind::Group => &options.gid_map,
        };
        let map = caller.map(kind, asked);
        let directory = format!("/proc/{target}");
        let file = format!("{directory}/{}", kind.file());
        let written = match caller.writer(kind, &map) {
            Writer::Helper => run_helper(kind.helper(), target, arguments(&map)),
            writer => {
                if writer == Writer::OwnId && kind == Kind::Group {
                    write(format!("{directory}/setgroups"), "deny").map_err(|error| {
                        format!("{} writing {directory}/setgroups: {error}", kind.option())
                    })?;
                }
                // One write for the whole map: the kernel takes no second one.
                File::options()
                    .write(true)
                    .open(&file)
                    .and_then(|mut open| open.write_all(text(&map).as_bytes()))
                    .map_err(|error| format!("writing {file}: {error}"))
            }
        };
        written.map_err(|reason| format!("{} {reason}", kind.option()))?;
    }
    Ok(())
}

fn run_helper(program: &str, target: Pid, ids: impl Iterator<Item = String>) -> Result<(), String> {
    let output = Command::new(program).arg(target.to_string()).args(ids).output().map_err(|error| {
        format!("running {program}: {error} (install the package that has it, often called uidmap)")
    })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")),
    }
}

/// Takes the ids 0 inside the namespace where the maps that were asked for have them.
///
/// Without this, a process whose own ids are not mapped would create files as "nobody", or not at all.
pub(super) fn become_root(options: &cli::Sandbox) -> Result<(), Error> {
    let has_root = |map: &[cli::IdMap]| map.iter().any(|range| range.inside == 0);
    let failed = |kind: Kind| {
        move |errno| Error::IdMap { option: kind.option(), reason: format!("becoming id 0 inside: {errno}") }
    };
    if has_root(&options.gid_map) {
        // Refused where setgroups(2) was forbidden together with a map of the own group: nothing to drop then.
        let _ = set_thread_groups(&[]);
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(failed(Kind::Group))?;
    }
    if has_root(&options.uid_map) {
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(failed(Kind::User))?;
    }
    Ok(())
}
