//! One front-end, from its first message to its disconnect.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use tracing::{debug, warn};
use vhost::vhost_user::{BackendReqHandler, Error};

use super::handler::Handler;
use super::{Device, RingRuntime};

/// How a connection ended. Either way all rings have drained and the device is reset.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionEnd {
    /// The front-end closed the connection.
    #[error("the front-end disconnected")]
    Disconnected,
    /// It broke the protocol, or the socket failed.
    #[error("the front-end's connection failed")]
    Failed(#[source] Error),
}

/// Serves one front-end until it goes away. Messages are handled on the calling thread, requests on the
/// threads of the rings.
///
/// A message that cannot be carried out (a ring of impossible size, memory that does not map) is refused
/// and the connection goes on; one that cannot be understood ends it, because nothing that follows can
/// be trusted.
pub fn serve_connection(stream: UnixStream, device: &Arc<dyn Device>, rings: &RingRuntime) -> ConnectionEnd {
    let handler = Arc::new(Mutex::new(Handler::new(Arc::clone(device), rings.clone())));
    let mut messages = BackendReqHandler::from_stream(stream, Arc::clone(&handler));
    let end = loop {
        match messages.handle_request() {
            Ok(()) => {}
            Err(Error::Disconnected) => break ConnectionEnd::Disconnected,
            // A front-end that exits with messages of ours unread resets the connection.
            Err(Error::SocketBroken(cause) | Error::SocketError(cause))
                if matches!(
                    cause.kind(),
                    std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                ) =>
            {
                debug!("the front-end reset the connection: {cause}");
                break ConnectionEnd::Disconnected;
            }
            Err(refused @ (Error::InvalidOperation(_) | Error::ReqHandlerError(_))) => {
                warn!("refused a message of the front-end: {refused}");
            }
            Err(cause) => break ConnectionEnd::Failed(cause),
        }
    };
    drop(messages);
    // The only other owner was `messages`. A poisoned lock would mean a panic in a handler; the rings
    // behind it must be stopped all the same.
    match handler.lock() {
        Ok(mut handler) => handler.shut_down(),
        Err(poisoned) => poisoned.into_inner().shut_down(),
    }
    end
}
