//! The trees.

use fermata_native::image::{Process, State};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::model::{deed, live};
use crate::world::{Doing, Moment, Seen, see};

pub(crate) const ALL: &[(&str, fn())] = &[
    (
        "a_shell_has_its_jobs_on_its_terminal",
        a_shell_has_its_jobs_on_its_terminal,
    ),
    (
        "a_terminal_may_be_without_a_foreground_job",
        a_terminal_may_be_without_a_foreground_job,
    ),
    (
        "daemons_and_what_a_subreaper_has",
        daemons_and_what_a_subreaper_has,
    ),
    ("zombies_end_as_they_did", zombies_end_as_they_did),
    ("a_deep_tree", a_deep_tree),
    ("a_wide_tree", a_wide_tree),
    ("process_1_leads_nothing", process_1_leads_nothing),
    ("whatever_processes_did", whatever_processes_did),
    ("a_failure_is_reported", a_failure_is_reported),
    ("a_death_on_the_way_is_missed", a_death_on_the_way_is_missed),
    ("a_taken_pid_is_an_error", a_taken_pid_is_an_error),
];

/// A living process of which nothing but the place in the tree matters.
fn row(pid: i32, parent: i32, group: i32, session: i32) -> Process {
    Process {
        pid,
        parent,
        group,
        session,
        name: format!("p{pid}"),
        state: State::Alive(postcard::from_bytes(&[0; 256]).unwrap()),
    }
}

fn zombie(pid: i32, parent: i32, group: i32, session: i32, status: i32) -> Process {
    Process {
        state: State::Zombie { status },
        ..row(pid, parent, group, session)
    }
}

fn with_terminal(mut process: Process) -> Process {
    if let State::Alive(alive) = &mut process.state {
        alive.terminal = Some(0);
    }
    process
}

/// `/proc` shows these processes, no others, and nothing that they do not know of.
fn assert_seen(seen: &Seen, processes: &[Process]) {
    assert_eq!(seen.processes.len(), processes.len(), "{seen:#?}");
    for process in processes {
        let sight = &seen.processes[&process.pid];
        let place = (sight.parent, sight.group, sight.session);
        let planned = (process.parent, process.group, process.session);
        assert_eq!(place, planned, "process {}", process.pid);
        let ended = match process.state {
            State::Zombie { status } => Some(status & !0x80),
            State::Alive(_) => None,
        };
        assert_eq!(sight.ended, ended, "process {}", process.pid);
        if ended.is_some() {
            assert_eq!(sight.name, process.name);
        } else {
            // Not the end of a ghost or a zombie.
            assert_eq!(sight.pending, 0, "process {}", process.pid);
        }
    }
}

fn assert_grows(processes: &[Process]) -> Seen {
    let seen = see(processes, Doing::default()).unwrap();
    assert_seen(&seen, processes);
    println!("{} processes in {:?}", processes.len(), seen.took);
    seen
}

fn a_shell_has_its_jobs_on_its_terminal() {
    let processes = [
        row(1, 0, 1, 1),
        with_terminal(row(10, 1, 10, 10)),
        // In front: a pipeline whose first program has ended, and one waits to be waited for.
        with_terminal(row(12, 10, 11, 10)),
        with_terminal(row(13, 12, 11, 10)),
        zombie(14, 10, 11, 10, 0),
        // Behind.
        with_terminal(row(20, 10, 20, 10)),
        with_terminal(row(21, 20, 20, 10)),
        // Let go of by the shell's subshell.
        with_terminal(row(31, 1, 30, 10)),
    ];
    let doing = Doing {
        terminal: Some(fermata_sys::terminal::open(24, 80).unwrap()),
        foreground: Some(11),
        ..Doing::default()
    };
    let seen = see(&processes, doing).unwrap();
    assert_seen(&seen, &processes);
    for (&pid, sight) in &seen.processes {
        let foreground = match pid {
            1 => -1,
            _ => 11,
        };
        assert_eq!(sight.foreground, foreground, "process {pid}");
    }
}

fn a_terminal_may_be_without_a_foreground_job() {
    let processes = [
        row(1, 0, 1, 1),
        with_terminal(row(10, 1, 10, 10)),
        with_terminal(row(12, 10, 12, 10)),
    ];
    let doing = Doing {
        terminal: Some(fermata_sys::terminal::open(24, 80).unwrap()),
        foreground: Some(11),
        ..Doing::default()
    };
    let seen = see(&processes, doing).unwrap();
    assert_seen(&seen, &processes);
    assert_eq!(seen.processes[&12].foreground, 11);
}

fn daemons_and_what_a_subreaper_has() {
    let seen = assert_grows(&[
        row(1, 0, 1, 1),
        // Twice forked; the session's leader has ended.
        row(6, 1, 5, 5),
        row(8, 6, 8, 8),
        row(9, 8, 5, 5),
        // A subreaper, with a session below it and what was left to it from there.
        row(105, 1, 105, 1),
        row(106, 105, 106, 1),
        row(107, 106, 107, 107),
        row(108, 105, 107, 107),
        row(109, 105, 120, 120),
        row(110, 105, 130, 121),
        row(111, 1, 120, 120),
        // Leaders in each other's groups.
        row(205, 1, 206, 1),
        row(206, 1, 205, 1),
    ]);
    assert_eq!(seen.last_pid, 206);
}

fn zombies_end_as_they_did() {
    let mut processes = vec![row(1, 0, 1, 1), row(2, 1, 2, 1)];
    // SIGSEGV and SIGABRT with the flag of a core dump, and the two signals that the C library hides.
    let statuses = [0, 1 << 8, 0xff00, 9, 15, 0x8b, 0x86, 5, 31, 32, 33, 34, 64];
    for (status, pid) in statuses.into_iter().zip(10..) {
        let leads = pid % 2 == 0;
        let (group, session) = if leads { (pid, pid) } else { (2, 1) };
        processes.push(zombie(pid, 1 + pid % 2, group, session, status));
    }
    // Of a session whose leader is a zombie.
    processes.push(row(40, 1, 41, 10));
    assert_grows(&processes);
}

fn a_deep_tree() {
    let processes = (1..=50)
        .map(|pid| row(pid, pid - 1, 1, 1))
        .collect::<Vec<_>>();
    assert_grows(&processes);
}

fn a_wide_tree() {
    let processes = (1..=200)
        .map(|pid| {
            row(
                pid,
                i32::from(pid > 1),
                pid - pid % 2 + i32::from(pid == 1),
                1,
            )
        })
        .collect::<Vec<_>>();
    assert_grows(&processes);
}

fn process_1_leads_nothing() {
    assert_grows(&[
        row(1, 0, 0, 0),
        row(2, 1, 0, 0),
        row(3, 2, 3, 0),
        row(4, 3, 0, 0),
    ]);
    assert_grows(&[
        row(1, 0, 1, 0),
        row(2, 1, 0, 0),
        row(3, 1, 1, 0),
        row(5, 1, 4, 0),
    ]);
}

/// The same simulation that the planner is tested with, so that it is known to be right about the kernel, too.
fn whatever_processes_did() {
    let mut runner = TestRunner::deterministic();
    let deeds = prop::collection::vec(deed(false), 20..80);
    for _ in 0..60 {
        let deeds = deeds.new_tree(&mut runner).unwrap().current();
        let processes = live(&deeds, true)
            .parents_first()
            .into_iter()
            .map(|(pid, task)| {
                let (parent, group, session) = (task.parent, task.group, task.session);
                match task.ended {
                    Some(status) => zombie(pid, parent, group, session, status),
                    None => row(pid, parent, group, session),
                }
            })
            .collect::<Vec<_>>();
        assert_grows(&processes);
    }
}

fn a_failure_is_reported() {
    let processes = [
        row(1, 0, 1, 1),
        row(2, 1, 2, 2),
        with_terminal(row(3, 2, 3, 3)),
        row(4, 3, 3, 3),
    ];
    for (pid, moment) in [
        (1, Moment::LeadSession),
        (2, Moment::LeadSession),
        (3, Moment::GroupsAreSet),
        (1, Moment::Play),
    ] {
        let doing = Doing {
            fails: Some((pid, moment)),
            ..Doing::default()
        };
        let failure = see(&processes, doing).unwrap_err();
        let first = failure.lines().next().unwrap();
        assert_eq!(first, format!("the image is damaged: {pid} {moment:?}"));
    }
}

fn a_death_on_the_way_is_missed() {
    let processes = [
        row(1, 0, 1, 1),
        row(2, 1, 2, 2),
        with_terminal(row(3, 2, 3, 3)),
        row(4, 3, 3, 3),
    ];
    for (pid, moment) in [(2, Moment::LeadSession), (3, Moment::GroupsAreSet)] {
        let doing = Doing {
            dies: Some((pid, moment)),
            ..Doing::default()
        };
        let failure = see(&processes, doing).unwrap_err();
        assert_eq!(
            failure.lines().next().unwrap(),
            format!("cannot complete the making of process {pid} (p{pid}): it ended on the way")
        );
    }
    // Nobody is left to say anything.
    let doing = Doing {
        dies: Some((1, Moment::Play)),
        ..Doing::default()
    };
    assert_eq!(see(&processes, doing).unwrap_err(), "");
}

fn a_taken_pid_is_an_error() {
    let doing = Doing {
        squatter: Some(3),
        ..Doing::default()
    };
    let processes = [row(1, 0, 1, 1), row(2, 1, 2, 1), row(3, 2, 2, 1)];
    let failure = see(&processes, doing).unwrap_err();
    assert_eq!(
        failure.lines().next().unwrap(),
        "cannot make child 3 of process 2 (p2): File exists (os error 17)"
    );
}
