//! Sockets that belong to a network namespace.
//!
//! ```text
//! open(namespace, family) ──► one thread: enter ─► socket(2) ─► leave ──► a socket that anybody may connect
//! ```
//!
//! A socket stays in the namespace in which it was made, whoever connects it. So only its making needs a thread that enters
//! the namespace, which takes microseconds and waits for nothing; one such thread is enough for all sandboxes. It serves
//! nobody else, because a thread that could not get back out must not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// Follows the calling thread, unlike `/proc/self`, which is the first thread.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The way to the thread; `None` before the first order.
static ORDERS: Mutex<Option<Sender<Order>>> = Mutex::new(None);

struct Order {
    namespace: PathBuf,
    family: AddressFamily,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

/// A non-blocking stream socket in the network namespace that is mounted at `namespace`.
pub(crate) async fn open(namespace: &Path, family: AddressFamily) -> io::Result<OwnedFd> {
    let (answer, answered) = oneshot::channel();
    give(Order {
        namespace: namespace.to_owned(),
        family,
        answer,
    })?;
    answered.await.map_err(io::Error::other)?
}

/// Gives an order to the thread, to a new one if there is none or it has ended.
fn give(order: Order) -> io::Result<()> {
    let mut orders = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let order = match &*orders {
        Some(thread) => match thread.send(order) {
            Ok(()) => return Ok(()),
            Err(returned) => returned.0,
        },
        None => order,
    };
    let (sender, receiver) = channel();
    std::thread::Builder::new()
        .name("sandbox-sockets".to_owned())
        .stack_size(128 << 10)
        .spawn(move || serve(&receiver))?;
    sender.send(order).map_err(io::Error::other)?;
    *orders = Some(sender);
    Ok(())
}

fn serve(orders: &Receiver<Order>) {
    let home = File::open(OWN_NAMESPACE);
    for order in orders {
        let home = match &home {
            Ok(home) => home,
            Err(error) => {
                // Nobody listens when the call was given up; so below.
                let _ = order.answer.send(Err(error.kind().into()));
                return;
            }
        };
        let made = make(&order);
        let left = enter(home);
        let _ = order.answer.send(made);
        if let Err(error) = left {
            tracing::error!(%error, "cannot leave the network namespace of a sandbox");
            return;
        }
    }
}

fn make(order: &Order) -> io::Result<OwnedFd> {
    enter(&File::open(&order.namespace)?)?;
    Ok(rustix::net::socket_with(
        order.family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}
