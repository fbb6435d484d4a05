//! How is a daemon connected and mounted?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::launch::Daemon;
use super::options::{Contender, Options};
use super::{Error, account, sys};
use crate::frontend::{
    Channel, ChannelLayout, Connection, Features, ForgetLayout, Forgets, GuestMemory, Layout, Mount, Setup,
    Waker, mount, unmount,
};

/// How long anything may take that is not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that serves a mounted share.
pub(super) struct Session {
    /// One for each client thread.
    pub(super) channels: Vec<Channel>,
    pub(super) mount: Mount,
    pub(super) watchdog: Watchdog,
    /// Those that serve, all of them: no daemon starts another when it is mounted.
    pub(super) processes: Vec<u32>,
    forgets: Arc<Forgets>,
    connection: Connection,
    daemon: Daemon,
}

/// What a session is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Operations in flight on each queue.
    pub(super) depth: u16,
    /// Bytes of the largest payload.
    pub(super) payload: u32,
}

impl Session {
    /// Starts a daemon and mounts its share.
    pub(super) fn start(
        contender: &Contender,
        options: &Options,
        shape: Shape,
        share: &std::path::Path,
        scratch: &std::path::Path,
    ) -> Result<Self, Error> {
        let (daemon, stream) = Daemon::start(contender, share, scratch)?;
        let wanted = Features { event_idx: options.event_idx, indirect: options.indirect };
        let explain = |error: crate::frontend::Error| daemon.failed(&error.to_string());
        let setup = Setup::new(stream, options.queues.saturating_add(1), wanted).map_err(explain)?;
        let features = setup.features();
        let mut layout = Layout::default();
        let forgets = ForgetLayout::new(&mut layout);
        let channels: Vec<ChannelLayout> = (0..options.queues)
            .map(|_| {
                let Shape { depth, payload } = shape;
                let (size, segment) = (options.queue_size, options.segment);
                ChannelLayout::new(&mut layout, size, depth, payload, segment, features.indirect)
            })
            .collect();
        let memory = Arc::new(GuestMemory::new(layout)?);
        let mut forgets = Forgets::new(&memory, forgets, features.event_idx)?;
        let mut channels = channels
            .into_iter()
            .map(|channel| Channel::new(&memory, channel, features.event_idx))
            .collect::<Result<Vec<_>, _>>()?;
        let mut queues = vec![forgets.queue_mut()];
        queues.extend(channels.iter().map(Channel::queue));
        let connection = setup.start(&memory, queues.into_iter()).map_err(explain)?;
        let mut wakers = channels.iter().map(Channel::waker).collect::<Result<Vec<_>, _>>()?;
        wakers.push(forgets.waker()?);
        let watchdog = Watchdog::start(daemon.pid(), wakers);
        let forgets = Arc::new(forgets);
        for channel in &mut channels {
            channel.set_forgets(Arc::clone(&forgets));
        }
        let Some(first) = channels.first_mut() else {
            return Err(Error::Option { option: "--queues", what: "there must be one".to_owned() });
        };
        let mount = mount(first).map_err(explain)?;
        let processes = account::tree(daemon.pid());
        Ok(Self { channels, mount, watchdog, processes, forgets, connection, daemon })
    }

    /// An error of this session, with what the daemon said last where it is the daemon's.
    pub(super) fn explain(&self, error: Error) -> Error {
        if sys::interrupted() {
            return Error::Interrupted;
        }
        match error {
            Error::Frontend(error) if Daemon::has_ended(self.daemon.pid()) => {
                self.daemon.failed(&format!("ended ({error})"))
            }
            Error::Frontend(error) => self.daemon.failed(&error.to_string()),
            other => other,
        }
    }

    /// Unmounts, disconnects, and waits for the daemon's end.
    pub(super) fn end(mut self) -> Result<(), Error> {
        self.watchdog.arm(PATIENCE);
        let drained = self.forgets.drain();
        let unmounted = self.channels.first_mut().map_or(Ok(()), unmount);
        if let Err(error) = drained.and(unmounted) {
            return Err(self.explain(error.into()));
        }
        let Self { connection, daemon, .. } = self;
        connection.stop().map_err(|error| daemon.failed(&error.to_string()))?;
        daemon.end()
    }
}

/// Gives up on a daemon that has died or does not answer, so that nobody sleeps for ever.
pub(super) struct Watchdog {
    state: Arc<WatchdogState>,
    thread: Option<JoinHandle<()>>,
}

struct WatchdogState {
    deadline: Mutex<Instant>,
    over: AtomicBool,
}

impl Watchdog {
    fn start(pid: u32, wakers: Vec<Waker>) -> Self {
        let state = Arc::new(WatchdogState {
            deadline: Mutex::new(Instant::now() + PATIENCE),
            over: AtomicBool::new(false),
        });
        let watched = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            while !watched.over.load(Ordering::Relaxed) {
                let late = Instant::now() > *watched.deadline.lock();
                if late || Daemon::has_ended(pid) || sys::interrupted() {
                    wakers.iter().for_each(Waker::abandon);
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        Self { state, thread: Some(thread) }
    }

    /// Allows so much time from now on, and some patience.
    pub(super) fn arm(&self, time: Duration) {
        *self.state.deadline.lock() = Instant::now() + time + PATIENCE;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
