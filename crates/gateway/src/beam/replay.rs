//! Calls that are sent again.
//!
//! The client repeats a call, under the same request id, when it saw no answer: its deadline passed, or the connection broke.
//! The first one may still be under way, or done. A repeat must not do the work twice.
//!
//! ```text
//! first call ──► task ──► answer ──► kept until acknowledged, or five minutes
//! repeat ──────────┴─ waits ─┘
//! ```
//!
//! The work is a task of its own, so that it goes on when the caller goes away: half of a sandbox must never be left behind.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// The client gives up after two minutes.
const KEPT: Duration = Duration::from_secs(5 * 60);
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Which call this is, and which earlier ones the client has the answers of.
#[derive(Debug, Default)]
pub(super) struct CallIds {
    request: Option<String>,
    acknowledged: Vec<String>,
}

impl CallIds {
    pub(super) fn of(metadata: &MetadataMap) -> Self {
        let text =
            |value: &tonic::metadata::AsciiMetadataValue| value.to_str().ok().map(str::to_owned);
        Self {
            request: metadata
                .get("x-beta9-request-id")
                .and_then(text)
                .filter(|id| !id.is_empty()),
            acknowledged: metadata
                .get_all("x-beta9-request-ack")
                .iter()
                .filter_map(text)
                .collect(),
        }
    }

    /// Empty for a call that carries none.
    pub(super) fn request_id(&self) -> &str {
        self.request.as_deref().unwrap_or_default()
    }
}

/// What came of the work.
#[derive(Debug)]
pub(super) struct Outcome<A> {
    pub(super) answer: A,
    /// A repeat gets this very answer; otherwise it does the work anew.
    pub(super) keep: bool,
}

type SharedAnswer = Arc<dyn Any + Send + Sync>;
type Finished = Option<(Instant, SharedAnswer)>;

/// Calls under way, and answers that may still be asked for.
#[derive(Debug)]
pub(super) struct Replays {
    state: Arc<Mutex<State>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct State {
    calls: HashMap<String, watch::Receiver<Finished>>,
    swept_at: Instant,
}

impl Replays {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                calls: HashMap::new(),
                swept_at: Instant::now(),
            })),
            tasks,
        }
    }

    /// Does the work, unless an equal call did or does it.
    pub(super) async fn run<A, F>(&self, ids: CallIds, work: F) -> Result<A, Status>
    where
        A: Clone + Send + Sync + 'static,
        F: Future<Output = Outcome<A>> + Send + 'static,
    {
        let mut finished = self.join_or_start(ids, work);
        let finished = finished
            .wait_for(Option::is_some)
            .await
            .map_err(|_closed| Status::internal("the call broke off"))?;
        let answer = finished.as_ref().map(|(_, answer)| Arc::clone(answer));
        answer
            .and_then(|answer| answer.downcast_ref::<A>().cloned())
            .ok_or_else(|| {
                Status::invalid_argument("this request id belongs to a call of another method")
            })
    }

    fn join_or_start<A, F>(&self, ids: CallIds, work: F) -> watch::Receiver<Finished>
    where
        A: Clone + Send + Sync + 'static,
        F: Future<Output = Outcome<A>> + Send + 'static,
    {
        let mut state = lock(&self.state);
        state.forget(&ids.acknowledged);
        if let Some(id) = &ids.request
            && let Some(call) = state.calls.get(id)
        {
            return call.clone();
        }
        let (finish, finished) = watch::channel(None);
        if let Some(id) = &ids.request {
            state.calls.insert(id.clone(), finished.clone());
        }
        let entry = Entry {
            state: Arc::clone(&self.state),
            id: ids.request,
        };
        self.tasks.spawn(async move {
            let outcome = work.await;
            if outcome.keep {
                entry.keep();
            } else {
                drop(entry);
            }
            // Nobody may be left to hear it.
            let _ = finish.send(Some((Instant::now(), Arc::new(outcome.answer))));
        });
        finished
    }
}

impl State {
    fn forget(&mut self, acknowledged: &[String]) {
        for id in acknowledged {
            if self
                .calls
                .get(id)
                .is_some_and(|call| call.borrow().is_some())
            {
                self.calls.remove(id);
            }
        }
        if self.swept_at.elapsed() > SWEEP_INTERVAL {
            self.swept_at = Instant::now();
            self.calls.retain(|_, call| {
                call.borrow()
                    .as_ref()
                    .is_none_or(|(finished_at, _)| finished_at.elapsed() < KEPT)
            });
        }
    }
}

/// Takes the call out of the table unless its answer is to be kept; also when the work panics.
struct Entry {
    state: Arc<Mutex<State>>,
    id: Option<String>,
}

impl Entry {
    fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            lock(&self.state).calls.remove(&id);
        }
    }
}

/// The table stays consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    fn ids(request: &str, acknowledged: &[&str]) -> CallIds {
        CallIds {
            request: (!request.is_empty()).then(|| request.to_owned()),
            acknowledged: acknowledged.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    fn replays() -> Replays {
        Replays::new(TaskTracker::new())
    }

    async fn count(replays: &Replays, ids: CallIds, counter: &Arc<AtomicU32>, keep: bool) -> u32 {
        let counter = Arc::clone(counter);
        replays
            .run(ids, async move {
                Outcome {
                    answer: counter.fetch_add(1, Ordering::SeqCst) + 1,
                    keep,
                }
            })
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_repeat_gets_the_first_answer_until_it_is_acknowledged() {
        let (replays, counter) = (replays(), Arc::default());
        assert_eq!(count(&replays, ids("a", &[]), &counter, true).await, 1);
        assert_eq!(count(&replays, ids("a", &[]), &counter, true).await, 1);
        assert_eq!(count(&replays, ids("b", &["a"]), &counter, true).await, 2);
        assert_eq!(count(&replays, ids("a", &[]), &counter, true).await, 3);
    }

    #[tokio::test]
    async fn calls_without_an_id_are_never_joined() {
        let (replays, counter) = (replays(), Arc::default());
        assert_eq!(count(&replays, ids("", &[]), &counter, true).await, 1);
        assert_eq!(count(&replays, ids("", &[]), &counter, true).await, 2);
        assert!(lock(&replays.state).calls.is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_is_not_kept_is_worked_out_anew() {
        let (replays, counter) = (replays(), Arc::default());
        assert_eq!(count(&replays, ids("a", &[]), &counter, false).await, 1);
        assert_eq!(count(&replays, ids("a", &[]), &counter, false).await, 2);
    }

    #[tokio::test]
    async fn work_goes_on_without_its_caller_and_a_repeat_joins_it() {
        let replays = Arc::new(replays());
        let (release, released) = oneshot::channel::<()>();
        let (started, has_started) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let replays = Arc::clone(&replays);
            async move {
                replays
                    .run(ids("a", &[]), async move {
                        started.send(()).unwrap();
                        released.await.unwrap();
                        Outcome {
                            answer: 7,
                            keep: false,
                        }
                    })
                    .await
            }
        });
        has_started.await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let repeat = replays.run(ids("a", &[]), async {
            Outcome {
                answer: 8,
                keep: false,
            }
        });
        let (answer, sent) = tokio::join!(repeat, async { release.send(()) });
        sent.unwrap();
        assert_eq!(answer.unwrap(), 7);
    }

    #[tokio::test]
    async fn an_id_of_another_method_is_refused() {
        let (replays, counter) = (replays(), Arc::default());
        count(&replays, ids("a", &[]), &counter, true).await;
        let other = replays.run(ids("a", &[]), async {
            Outcome {
                answer: "text",
                keep: true,
            }
        });
        assert_eq!(
            other.await.unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }

    #[tokio::test]
    async fn an_acknowledgement_does_not_break_a_call_under_way() {
        let replays = replays();
        let (release, released) = oneshot::channel::<()>();
        let first = replays.run(ids("a", &[]), async move {
            released.await.unwrap();
            Outcome {
                answer: 1,
                keep: true,
            }
        });
        let (first, second) = tokio::join!(first, async {
            let joined = replays.run(ids("a", &["a"]), async {
                Outcome {
                    answer: 2,
                    keep: true,
                }
            });
            release.send(()).unwrap();
            joined.await
        });
        assert_eq!((first.unwrap(), second.unwrap()), (1, 1));
    }

    #[tokio::test]
    async fn work_that_panics_does_not_leave_its_id_behind() {
        let replays = replays();
        let broken = replays.run(ids("a", &[]), async {
            assert!(std::hint::black_box(false), "on purpose");
            Outcome {
                answer: 1,
                keep: true,
            }
        });
        assert_eq!(broken.await.unwrap_err().code(), tonic::Code::Internal);
        assert!(lock(&replays.state).calls.is_empty());
    }
}
