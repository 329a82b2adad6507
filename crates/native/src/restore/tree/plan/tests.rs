use proptest::prelude::*;

use super::*;
use crate::image::{Alive, Thread};
use crate::restore::tree::model::{Model, Refused, Task, deed, live};

type Row = (i32, i32, i32, i32);

/// Takes every step of a plan.
fn follow(plan: &Plan<'_>, foregrounds: &[Foreground]) -> Result<Model, String> {
    let mut model = Model::new();
    for step in plan.steps() {
        let pid = |actor: usize| plan.actors()[actor].pid;
        let actor = pid(step.actor);
        let result = match step.action {
            Action::Clone(child) => model.fork(actor, pid(child), false),
            Action::CloneSibling(child) => model.fork(actor, pid(child), true),
            Action::LeadSession => model.setsid(actor),
            Action::EnterGroup(group) => model.setpgid(actor, group),
            Action::AdoptOrphans(on) => model.adopt(actor, on),
            Action::GroupsAreSet => have_foregrounds(&model, actor, foregrounds),
            Action::End => model.exit(actor, plan.status(step.actor)),
            Action::Bury(child) => match model.reap(actor, pid(child)) {
                Ok(0) if plan.actors()[child].role != Role::Process => Ok(()),
                Ok(_) => Err("buried a process of the tree"),
                Err(error) => Err(error),
            },
            Action::Mourn(child) => model.status(actor, pid(child)).map(drop),
        };
        result.map_err(|error| format!("{actor} {:?}: {error}", step.action))?;
    }
    Ok(model)
}

fn have_foregrounds(model: &Model, leader: i32, foregrounds: &[Foreground]) -> Result<(), Refused> {
    let have = foregrounds
        .iter()
        .filter(|foreground| foreground.session == leader)
        .all(|foreground| {
            model
                .tasks
                .values()
                .any(|task| task.group == foreground.group)
        });
    have.then_some(()).ok_or("ESRCH: no foreground group")
}

/// What a capture would hold.
fn processes(model: &Model) -> Vec<Process> {
    let row = |(pid, task): (i32, Task)| {
        let state = match task.ended {
            Some(status) => State::Zombie { status },
            None => State::Alive(alive()),
        };
        row(pid, task.parent, task.group, task.session, state)
    };
    model.parents_first().into_iter().map(row).collect()
}

/// A process of which nothing but the place in the tree matters.
fn alive() -> Alive {
    postcard::from_bytes(&[0; 256]).unwrap()
}

/// The plan of a tree makes that tree and nothing else.
fn assert_makes(plan: &Plan<'_>, processes: &[Process], foregrounds: &[Foreground]) {
    let made = follow(plan, foregrounds).unwrap();
    assert_eq!(made.tasks.len(), processes.len());
    for process in processes {
        let task = &made.tasks[&process.pid];
        assert_eq!(
            (task.parent, task.session, task.group),
            (process.parent, process.session, process.group),
            "{}",
            process.pid
        );
        let ended = match process.state {
            State::Zombie { status } => Some(status & !CORE_DUMPED),
            State::Alive(_) => None,
        };
        assert_eq!(task.ended, ended, "{}", process.pid);
        assert!(!task.adopts, "{}", process.pid);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_processes_do_is_made_again(
        deeds in prop::collection::vec(deed(false), 0..80),
        process_1_leads in prop::bool::weighted(0.8),
    ) {
        let processes = processes(&live(&deeds, process_1_leads));
        assert_makes(&plan(&processes, &[]).unwrap(), &processes, &[]);
    }

    #[test]
    fn adopters_that_stop_adopting_are_held_or_refused(
        deeds in prop::collection::vec(deed(true), 0..80),
    ) {
        let processes = processes(&live(&deeds, true));
        match plan(&processes, &[]) {
            Ok(plan) => assert_makes(&plan, &processes, &[]),
            Err(NativeError::Unheld { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_made_up_table_is_made_or_refused(
        rows in prop::collection::vec((1..12, 0..12, 0..12, 0..12, any::<bool>()), 0..12),
        is_like_a_tree in any::<bool>(),
    ) {
        let processes = rows
            .iter()
            .zip(1..)
            .map(|(&(pid, parent, group, session, has_ended), place)| {
                let state = if has_ended && place > 1 {
                    State::Zombie { status: 9 }
                } else {
                    State::Alive(alive())
                };
                // Half of them get past the first checks.
                let (pid, parent) = if is_like_a_tree {
                    (place, if place == 1 { 0 } else { 1 + parent % (place - 1) })
                } else {
                    (pid, parent)
                };
                row(pid, parent, group, session, state)
            })
            .collect::<Vec<_>>();
        if let Ok(plan) = plan(&processes, &[]) {
            assert_makes(&plan, &processes, &[]);
        }
    }
}

fn row(pid: i32, parent: i32, group: i32, session: i32, state: State) -> Process {
    Process {
        pid,
        parent,
        group,
        session,
        name: format!("p{pid}"),
        state,
    }
}

/// pid, parent, group, session of living processes.
fn table(rows: &[Row]) -> Vec<Process> {
    rows.iter()
        .map(|&(pid, parent, group, session)| {
            row(pid, parent, group, session, State::Alive(alive()))
        })
        .collect()
}

fn assert_made(rows: &[Row]) {
    let processes = table(rows);
    assert_makes(&plan(&processes, &[]).unwrap(), &processes, &[]);
}

fn refusal(processes: &[Process]) -> NativeError {
    plan(processes, &[]).unwrap_err()
}

#[test]
fn what_the_agent_starts_needs_no_ghosts() {
    let processes = table(&[(1, 0, 1, 1), (7, 1, 7, 1), (8, 7, 7, 1), (9, 8, 7, 1)]);
    let plan = plan(&processes, &[]).unwrap();
    assert_makes(&plan, &processes, &[]);
    assert_eq!(plan.actors().len(), 4);
    // setsid, three births, one group.
    assert_eq!(plan.steps().len(), 5);
}

#[test]
fn a_pipeline_goes_on_without_its_first_program() {
    // A shell with a terminal: a job whose leader has ended in front, another behind.
    assert_made(&[
        (1, 0, 1, 1),
        (10, 1, 10, 10),
        (12, 10, 11, 10),
        (13, 10, 11, 10),
        (20, 10, 20, 10),
        (21, 20, 20, 10),
    ]);
}

#[test]
fn daemons_of_ended_sessions_stand_under_process_1() {
    // Twice forked: the session's leader has ended; one of them has become a leader of its own since.
    assert_made(&[(1, 0, 1, 1), (6, 1, 5, 5), (8, 6, 8, 8), (9, 8, 5, 5)]);
}

#[test]
fn a_background_process_whose_shell_lives_deeper_is_left_to_process_1() {
    assert_made(&[
        (1, 0, 1, 1),
        (5, 1, 5, 1),
        (6, 5, 6, 6),
        (9, 1, 6, 6),
        (10, 9, 6, 6),
    ]);
}

#[test]
fn a_subreaper_keeps_what_was_left_to_it() {
    // 5 adopts: 7 of a live session below it, 8 of an ended one, 9 of another ended one with an ended group.
    assert_made(&[
        (1, 0, 1, 1),
        (5, 1, 5, 1),
        (6, 5, 6, 1),
        (7, 6, 7, 7),
        (8, 5, 7, 7),
        (9, 5, 20, 20),
        (10, 5, 30, 21),
        (11, 1, 20, 20),
    ]);
}

#[test]
fn leaders_may_be_in_each_others_groups() {
    assert_made(&[(1, 0, 1, 1), (5, 1, 6, 1), (6, 1, 5, 1)]);
    assert_made(&[(1, 0, 1, 1), (5, 1, 6, 1), (6, 1, 7, 1), (7, 6, 5, 1)]);
    assert_made(&[(1, 0, 0, 0), (5, 1, 6, 0), (6, 1, 5, 0), (7, 6, 0, 0)]);
}

#[test]
fn a_foreground_group_is_there_without_members() {
    let mut processes = table(&[(1, 0, 1, 1), (5, 1, 5, 5), (6, 5, 6, 5)]);
    if let State::Alive(alive) = &mut processes[1].state {
        alive.terminal = Some(0);
    }
    for group in [5, 6, 7] {
        let foregrounds = [Foreground { session: 5, group }];
        let plan = plan(&processes, &foregrounds).unwrap();
        assert_makes(&plan, &processes, &foregrounds);
        let tells = |step: &Step| step.action == Action::GroupsAreSet && step.actor == 1;
        assert!(plan.steps().iter().any(tells));
    }
}

#[test]
fn a_foreground_group_whose_number_was_given_away_is_refused() {
    let mut processes = table(&[(1, 0, 1, 1), (5, 1, 5, 5), (6, 1, 1, 1)]);
    set_threads(&mut processes[2], &[6, 7]);
    for group in [6, 7] {
        let foregrounds = [Foreground { session: 5, group }];
        let error = plan(&processes, &foregrounds).unwrap_err();
        assert!(matches!(error, NativeError::Unheld { .. }), "{error}");
    }
    let foregrounds = [Foreground {
        session: 6,
        group: 6,
    }];
    let error = plan(&processes, &foregrounds).unwrap_err();
    assert!(matches!(error, NativeError::Image { .. }), "{error}");
}

#[test]
fn helpers_and_ghosts_keep_away_from_threads() {
    let rows = [(1, 0, 1, 1), (5, 1, 5, 1), (6, 5, 6, 6), (9, 1, 6, 6)];
    let mut processes = table(&rows);
    set_threads(&mut processes[0], &[1, 2, 3, 4]);
    let plan = plan(&processes, &[]).unwrap();
    let helper = plan
        .actors()
        .iter()
        .find(|actor| actor.role == Role::Helper)
        .unwrap();
    assert_eq!(helper.pid, 7);

    let mut processes = table(&[(1, 0, 1, 1), (5, 1, 5, 1), (6, 1, 4, 4)]);
    set_threads(&mut processes[1], &[5, 4]);
    let error = refusal(&processes).to_string();
    assert_eq!(
        error,
        "the image is damaged: thread 4 of process 5 has another's id"
    );
}

#[test]
fn trees_that_cannot_be_are_refused() {
    let refused: &[(&[Row], &str)] = &[
        (&[], "it has no process"),
        (&[(2, 0, 2, 2)], "process 2 is in place 0"),
        (&[(1, 0, 1, 1), (1, 1, 1, 1)], "process 1 is in place 1"),
        (&[(1, 0, 1, 1), (0, 1, 1, 1)], "process 0 is in place 1"),
        (&[(1, 0, 1, 1), (-4, 1, 1, 1)], "process -4 is in place 1"),
        (&[(1, 5, 1, 1)], "process 1 comes before its parent 5"),
        (
            &[(1, 0, 1, 1), (2, 3, 1, 1), (3, 2, 1, 1)],
            "process 2 comes before its parent 3",
        ),
        (
            &[(1, 0, 1, 1), (2, 1, 1, 1), (2, 1, 1, 1)],
            "process 2 is there twice",
        ),
        (
            &[(1, 0, 5, 5), (5, 1, 5, 5)],
            "process 1 cannot be in session 5",
        ),
        (
            &[(1, 0, 1, 1), (2, 1, 0, 0)],
            "process 2 cannot be in session 0",
        ),
        (
            &[(1, 0, 1, 1), (2, 1, 2, 3), (3, 1, 3, 1)],
            "process 2 cannot be in session 3",
        ),
        (
            &[(1, 0, 1, 1), (2, 1, 3, 2)],
            "process 2 cannot be in session 2",
        ),
        (
            &[(1, 0, 1, 1), (2, 1, 2, 1), (3, 1, 2, 3)],
            "process 3 cannot be in session 3",
        ),
        (
            &[(1, 0, 1, 1), (2, 1, 9, 1), (3, 1, 9, 8)],
            "process 3 cannot be in group 9 of session 8",
        ),
        (
            &[(1, 0, 1, 1), (2, 1, -9, 1)],
            "process 2 cannot be in group -9 of session 1",
        ),
        (
            &[(1, 0, 0, 0), (2, 1, 0, 0), (3, 1, 2, 0)],
            "process 2 cannot be in group 0",
        ),
    ];
    for (rows, reason) in refused {
        let error = refusal(&table(rows));
        assert!(matches!(error, NativeError::Image { .. }), "{error}");
        assert_eq!(error.to_string(), format!("the image is damaged: {reason}"));
    }
}

#[test]
fn trees_that_cannot_be_arranged_name_the_process() {
    let refused: &[(&[Row], &str)] = &[
        // 5 leads no session, and that of 6 is led by somebody who is not below 5.
        (
            &[(1, 0, 1, 1), (4, 1, 4, 4), (5, 1, 5, 1), (6, 5, 4, 4)],
            "process 5 (p5) cannot be held: there is a process of session 4 below it, which it cannot have been in",
        ),
        (
            &[(1, 0, 1, 1), (5, 1, 6, 6), (6, 5, 6, 6)],
            "process 5 (p5) cannot be held: it is in session 6 of a process below it",
        ),
        // The session of each comes from below the other.
        (
            &[
                (1, 0, 1, 1),
                (5, 1, 8, 8),
                (6, 1, 7, 7),
                (7, 5, 7, 7),
                (8, 6, 8, 8),
            ],
            "process 5 (p5) cannot be held: its session comes from below a process that waits for it",
        ),
    ];
    for (rows, reason) in refused {
        let error = refusal(&table(rows));
        assert!(matches!(error, NativeError::Unheld { .. }), "{error}");
        assert_eq!(error.to_string(), *reason);
    }
}

#[test]
fn zombies_have_an_end_and_no_children() {
    for status in [0, 1 << 8, 0xff00, 9, 15, 0x8b, 6, 34, 64] {
        let mut processes = table(&[(1, 0, 1, 1), (2, 1, 2, 2)]);
        processes[1].state = State::Zombie { status };
        assert_makes(&plan(&processes, &[]).unwrap(), &processes, &[]);
    }
    for status in [-1, 1 << 16, 0x137f, 0x80, 0xffff, 17, 19, 28, 65, 0x109] {
        let mut processes = table(&[(1, 0, 1, 1), (2, 1, 2, 2)]);
        processes[1].state = State::Zombie { status };
        assert_eq!(
            refusal(&processes).to_string(),
            format!("the image is damaged: zombie 2 has status {status:#x}")
        );
    }
    let mut processes = table(&[(1, 0, 1, 1), (2, 1, 2, 2), (3, 2, 2, 2)]);
    processes[1].state = State::Zombie { status: 0 };
    assert_eq!(
        refusal(&processes).to_string(),
        "the image is damaged: zombie 2 has a child"
    );
}

#[test]
fn a_very_deep_and_a_very_wide_tree_are_planned() {
    let deep = (1..100_000)
        .map(|pid| (pid, pid - 1, 1, 1))
        .collect::<Vec<_>>();
    let wide = (1..100_000)
        .map(|pid| {
            (
                pid,
                i32::from(pid > 1),
                if pid % 2 == 0 { pid } else { 1 },
                1,
            )
        })
        .collect::<Vec<_>>();
    for rows in [deep, wide] {
        assert_made(&rows[..1000]);
        let processes = table(&rows);
        let steps = plan(&processes, &[]).unwrap().steps().len();
        assert!(steps >= rows.len(), "{steps}");
    }
}

fn set_threads(process: &mut Process, tids: &[i32]) {
    if let State::Alive(Alive { threads, .. }) = &mut process.state {
        *threads = tids.iter().map(|&tid| thread(tid)).collect();
    }
}

fn thread(tid: i32) -> Thread {
    Thread {
        tid,
        ..postcard::from_bytes(&[0; 256]).unwrap()
    }
}
