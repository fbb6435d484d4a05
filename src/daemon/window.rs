//! Who connects to the block device beside the share?
//!
//! Its front-end is usually the same virtual machine monitor as the share's, but another connection, which may come, go and
//! come again at any time. The daemon ends with the share's. Grants belong to the guest's mount and outlive the disk.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use tracing::{error, info, warn};

use super::{Error, signals};
use crate::cli;
use crate::extents::{Identity, Volume, Window};
use crate::sandbox::Role;
use crate::vhost::{ConnectionEnd, Device, RingRuntime, WindowDevice, serve_connection};

/// Requests of the window are best multiples of it. The host's own limit is a file's (`STATX_DIOALIGN`); what is below
/// goes through the host's page cache.
const LOGICAL_BLOCK: u32 = 512;

/// How long to wait where a connection cannot be accepted: for want of descriptors or memory, which may pass.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// The window as the options say, with the device on which it may move bytes past the file system.
pub(super) fn make(options: &cli::Options, volume: Option<Volume>) -> Result<Arc<Window>, Error> {
    let serial = match options.window.as_ref().and_then(|window| window.serial.clone()) {
        Some(serial) => serial,
        None => format!("efs-{:016x}", random().map_err(Error::Window)?),
    };
    // What is no multiple of the device's block could only go through the page cache.
    let block = volume.as_ref().map_or(LOGICAL_BLOCK, |volume| volume.identity().logical_block);
    let window = Window::new(Identity::new(serial.as_bytes(), block, options.share.readonly))
        .beginning_anywhere(random().map_err(Error::Window)?);
    info!("The window's serial is {serial}");
    Ok(Arc::new(match volume {
        Some(volume) => {
            let (major, minor) = volume.number();
            info!(
                "The window uses the host's block device {major}:{minor}: nobody else may use its file system"
            );
            window.over(volume)
        }
        None => window,
    }))
}

fn random() -> std::io::Result<u64> {
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(random))
}

/// Serves the window's front-ends, one after the other, on a thread of its own.
pub(super) fn serve(
    listener: UnixListener,
    window: Arc<Window>,
    queues: u16,
    rings: RingRuntime,
) -> Result<(), Error> {
    let revoked = Arc::clone(&window);
    let revoke = move || {
        revoked.revoke_all();
        info!("SIGUSR1 received: all that was granted of the window is taken back");
    };
    signals::on_user_signal(revoke).map_err(Error::Window)?;
    let device: Arc<dyn Device> = Arc::new(WindowDevice::new(window, queues));
    let accept = move || {
        if let Err(cause) = Role::Window.enter() {
            warn!("the window's thread is not limited to its role: {cause}");
        }
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    info!("A front-end connected to the window");
                    match serve_connection(stream, &device, &rings) {
                        ConnectionEnd::Disconnected => info!("The window's front-end disconnected"),
                        ConnectionEnd::Failed(cause) => {
                            warn!("The connection of the window's front-end failed: {cause}");
                        }
                    }
                }
                Err(cause) => {
                    error!("--window-socket: cannot accept a connection: {cause}");
                    thread::sleep(RETRY);
                }
            }
        }
    };
    thread::Builder::new().name("window".to_owned()).spawn(accept).map(drop).map_err(Error::Window)
}
