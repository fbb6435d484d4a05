//! How will the threads behind the virtqueues work on this host?
//!
//! Found out and said before the first front-end connects: an operator who asks for what the host does not
//! give learns it at the start, and a log tells how data moved.

use std::num::NonZeroUsize;
use std::sync::Arc;

use rustix::thread::sched_getaffinity;
use tracing::{info, warn};

use super::Error;
use crate::cli::{Engine, GuestLimits, Rings};
use crate::metrics::Limit;
use crate::ring::{EngineChoice, EngineKind, Offload, RingOptions};
use crate::sandbox::{Role, Walls};
use crate::vhost::RingRuntime;

/// Threads for slow operations at most, whatever the command line says: they wait, and more of them
/// would only wait for each other.
const MAX_OFFLOAD_THREADS: usize = 64;

/// What the rings share, as far as this host can give what was asked for. `threads` for slow operations; 0
/// chooses. Whether io_uring is restricted is noted in `walls`.
pub(super) fn runtime(
    rings: &Rings,
    threads: usize,
    limits: &GuestLimits,
    walls: &mut Walls,
) -> Result<RingRuntime, Error> {
    let threads = NonZeroUsize::new(threads.min(MAX_OFFLOAD_THREADS));
    Ok(RingRuntime {
        options: RingOptions {
            engine: engine(rings.engine, walls)?,
            busy_poll: rings.poll,
            in_flight: Arc::new(Limit::new("--max-in-flight", limits.max_in_flight)),
            kept_bytes: Arc::new(Limit::new("--max-kept-bytes", limits.max_kept_bytes)),
            ..RingOptions::default()
        },
        affinity: affinity(&rings.affinity)?.into(),
        offload: Arc::new(pool(threads.unwrap_or(Offload::DEFAULT_THREADS), Role::Slow)),
    })
}

/// The same for the window's rings, whose threads have other credentials: they share none with the share's.
pub(super) fn window_runtime(rings: &RingRuntime) -> RingRuntime {
    RingRuntime { offload: Arc::new(pool(Offload::DEFAULT_THREADS, Role::WindowSlow)), ..rings.clone() }
}

/// A pool whose threads are limited to a role.
fn pool(threads: NonZeroUsize, role: Role) -> Offload {
    Offload::new(threads).prepared(move || role.enter())
}

fn engine(wanted: Engine, walls: &mut Walls) -> Result<EngineKind, Error> {
    let kind = match wanted {
        Engine::Auto => EngineKind::Auto,
        Engine::IoUring => EngineKind::Uring,
        Engine::Threads => EngineKind::Threads,
    };
    let EngineChoice { kind: chosen, instead, unrestricted } = kind.choose().map_err(Error::Engine)?;
    match unrestricted {
        Some(error) => walls.missing("restrictions of io_uring", error)?,
        None if chosen == EngineKind::Uring => walls.stands("io_uring restrictions"),
        None => (),
    }
    match (chosen, instead) {
        (_, Some(error)) => warn!("io_uring is not available ({error}): threads move data"),
        (EngineKind::Threads, None) => info!("Threads move data"),
        _ => info!("io_uring moves data"),
    }
    Ok(chosen)
}

fn affinity(wanted: &[usize]) -> Result<&[usize], Error> {
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let own = sched_getaffinity(None).map_err(|error| Error::Cpus(error.into()))?;
    // `is_set` takes no number that the set has no room for.
    match wanted.iter().find(|cpu| **cpu >= rustix::thread::CpuSet::MAX_CPU || !own.is_set(**cpu)) {
        Some(cpu) => Err(Error::Affinity(*cpu)),
        None => Ok(wanted),
    }
}
