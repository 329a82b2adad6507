//! Event counters, timers, signal descriptors, epolls.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use fermata_sys::open_file::{place, signal_descriptor};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_gettime,
    timerfd_settime,
};

use super::harness::{Case, held, put, refused, take};

pub(crate) const CASES: &[Case] = &[
    ("an_event_counter_keeps_its_count", event),
    ("a_timer_goes_on", timer),
    ("a_timer_keeps_unread_expirations", expired),
    ("a_timer_set_to_a_time_keeps_it", at_time),
    ("an_epoll_watches_what_it_watched", watches),
    (
        "an_epoll_knows_a_target_by_a_number_that_is_closed",
        closed_number,
    ),
    ("an_epoll_in_an_epoll", nested),
    (
        "an_epoll_that_watches_what_nobody_has_is_refused",
        lost_target,
    ),
    ("signals_are_told_by_the_descriptor", signals),
];

fn event() {
    held(
        || {
            let count = eventfd(5, EventfdFlags::empty()).unwrap();
            put(100, count);
            put(101, eventfd(3, EventfdFlags::SEMAPHORE).unwrap());
            let large = File::from(eventfd(1, EventfdFlags::NONBLOCK).unwrap());
            (&large).write_all(&(1_u64 << 40).to_ne_bytes()).unwrap();
            put(102, large);
        },
        || {
            let read = |number| {
                let mut bytes = [0; 8];
                File::from(take(number)).read_exact(&mut bytes).unwrap();
                u64::from_ne_bytes(bytes)
            };
            assert_eq!(read(100), 5);
            assert_eq!(read(101), 1);
            assert_eq!(read(102), (1 << 40) + 1);
        },
    );
}

fn set(timer: &OwnedFd, flags: TimerfdTimerFlags, value: Timespec, interval_ns: i64) {
    let time = Itimerspec {
        it_value: value,
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: interval_ns,
        },
    };
    timerfd_settime(timer, flags, &time).unwrap();
}

fn wait(file: &OwnedFd) {
    let patience = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(file, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&patience)), Ok(1));
}

fn timer() {
    held(
        || {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty()).unwrap();
            let value = Timespec {
                tv_sec: 1000,
                tv_nsec: 0,
            };
            set(&timer, TimerfdTimerFlags::empty(), value, 7_000_000);
            put(100, timer);
        },
        || {
            let time = timerfd_gettime(take(100)).unwrap();
            assert!((990..=1000).contains(&time.it_value.tv_sec));
            assert_eq!(time.it_interval.tv_nsec, 7_000_000);
        },
    );
}

fn expired() {
    held(
        || {
            let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::empty()).unwrap();
            let value = Timespec {
                tv_sec: 0,
                tv_nsec: 1,
            };
            set(&timer, TimerfdTimerFlags::empty(), value, 0);
            wait(&timer);
            put(100, timer);
        },
        || {
            let mut bytes = [0; 8];
            let mut timer = File::from(take(100));
            timer.read_exact(&mut bytes).unwrap();
            assert_eq!(u64::from_ne_bytes(bytes), 1);
        },
    );
}

fn at_time() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let value = Timespec {
        tv_sec: now.tv_sec + 500,
        tv_nsec: 0,
    };
    held(
        || {
            let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::empty()).unwrap();
            set(&timer, TimerfdTimerFlags::ABSTIME, value, 0);
            put(100, timer);
        },
        || {
            let mut info = String::new();
            let mut file = File::open("/proc/self/fdinfo/100").unwrap();
            file.read_to_string(&mut info).unwrap();
            assert!(info.contains("settime flags: 01"), "{info}");
            let left = timerfd_gettime(take(100)).unwrap().it_value.tv_sec;
            assert!((490..=500).contains(&left), "{left}");
        },
    );
}

fn add(epoll: &OwnedFd, target: &OwnedFd, data: u64) {
    let flags = epoll::EventFlags::IN;
    epoll::add(epoll, target, epoll::EventData::new_u64(data), flags).unwrap();
}

/// What is ready, by its data.
fn ready(epoll: &OwnedFd) -> Vec<u64> {
    let mut events = Vec::with_capacity(8);
    epoll::wait(
        epoll,
        spare_capacity(&mut events),
        Some(&Timespec::default()),
    )
    .unwrap();
    let mut data: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
    data.sort_unstable();
    data
}

/// An epoll at 100, and counters at 101 and 102 that it watches by these numbers.
fn watching() {
    put(100, epoll::create(epoll::CreateFlags::empty()).unwrap());
    put(101, eventfd(0, EventfdFlags::empty()).unwrap());
    put(102, eventfd(1, EventfdFlags::empty()).unwrap());
    let [epoll, first, second] = [100, 101, 102].map(take);
    add(&epoll, &first, 0xffff_ffff_0000_0001);
    add(&epoll, &second, 2);
    std::mem::forget([epoll, first, second]);
}

fn watches() {
    held(watching, || {
        let [epoll, first, second] = [100, 101, 102].map(take);
        assert_eq!(ready(&epoll), [2]);
        rustix::io::write(&first, &1_u64.to_ne_bytes()).unwrap();
        assert_eq!(ready(&epoll), [2, 0xffff_ffff_0000_0001]);
        // Found by description and number, as before.
        epoll::delete(&epoll, &second).unwrap();
        assert_eq!(ready(&epoll), [0xffff_ffff_0000_0001]);
    });
}

fn closed_number() {
    let make = || {
        watching();
        place(101, 110, false).unwrap();
        drop(take(101));
    };
    held(make, || {
        let [epoll, first] = [100, 110].map(take);
        rustix::io::write(&first, &1_u64.to_ne_bytes()).unwrap();
        assert_eq!(ready(&epoll), [2, 0xffff_ffff_0000_0001]);
    });
}

fn nested() {
    let make = || {
        watching();
        put(120, epoll::create(epoll::CreateFlags::empty()).unwrap());
        let [outer, inner] = [120, 100].map(take);
        add(&outer, &inner, 9);
        std::mem::forget([outer, inner]);
    };
    held(make, || {
        assert_eq!(ready(&take(120)), [9]);
    });
}

fn lost_target() {
    let (keeper, other) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::empty(),
        None,
    )
    .unwrap();
    let reason = refused(|| {
        watching();
        // Somebody else keeps it open.
        send_away(&keeper, &take(101));
    });
    assert!(reason.contains("watches something"), "{reason}");
    drop(other);
}

/// Sends a descriptor to where nobody of the guest has it.
pub(crate) fn send_away(keeper: &OwnedFd, object: &OwnedFd) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd as _;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [object.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let bytes = [std::io::IoSlice::new(b"x")];
    sendmsg(keeper, &bytes, &mut control, SendFlags::empty()).unwrap();
}

fn signals() {
    let child = 1 << (rustix::process::Signal::CHILD.as_raw() - 1);
    held(
        || {
            put(100, epoll::create(epoll::CreateFlags::empty()).unwrap());
            put(101, signal_descriptor(child).unwrap());
            let [epoll, signals] = [100, 101].map(take);
            add(&epoll, &signals, 3);
            std::mem::forget([epoll, signals]);
        },
        || {
            // Told only while it is blocked.
            drop(fermata_sys::process::child_signals().unwrap());
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::CHILD).unwrap();
            assert_eq!(ready(&take(100)), [3]);
            let mut information = [0; 128];
            File::from(take(101)).read_exact(&mut information).unwrap();
            assert_eq!(
                information[..4],
                rustix::process::Signal::CHILD.as_raw().to_ne_bytes()
            );
        },
    );
}
