//! The queue's rules, one by one, on a real store and a clock of our own.
#![expect(clippy::unwrap_used, reason = "tests")]

use factory::queue::{Beat, Claim, Needs, NewJob};
use factory::{Error, Failure, Job, Queue, State};
use proptest::prelude::*;
use registry::{Filter, NewAdapter, PeftConfig, Store};

const LEASE: i64 = 60_000;

struct Place {
    _folder: tempfile::TempDir,
    store: Store,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    Place { _folder: folder, store }
}

fn job(name: &str) -> NewJob {
    NewJob {
        spec_hash: format!("hash-{name}"),
        spec: serde_json::json!({ "name": name }),
        kind: "adapter".into(),
        label: format!("t/{name}"),
        family: "t".into(),
        tags: vec![],
        base: "base".into(),
        pack_key: "base|x".into(),
        priority: 0,
        max_attempts: 3,
        needs: vec![],
    }
}

fn needing(name: &str, needs: &str, only_ok: bool) -> NewJob {
    NewJob { needs: vec![Needs { spec_hash: format!("hash-{needs}"), only_ok }], ..job(name) }
}

fn adapter(name: &str) -> NewAdapter {
    let peft = PeftConfig::of_rank("m", 1, &["q_proj"]);
    NewAdapter::bare(&format!("hash-{name}"), &format!("t/{name}"), peft, name.as_bytes().to_vec())
}

impl Place {
    fn queue(&mut self) -> Queue<'_> {
        Queue::new(&mut self.store)
    }

    fn submit(&mut self, jobs: &[NewJob]) {
        self.queue().submit(jobs, 0).unwrap();
    }

    fn claim(&mut self, owner: &str, most: usize, now_ms: i64) -> Vec<Job> {
        let claim = Claim { base: "base", kinds: &["adapter"], owner, most, now_ms, lease_ms: LEASE };
        self.queue().claim(claim).unwrap()
    }

    fn labels(&mut self, owner: &str, most: usize, now_ms: i64) -> Vec<String> {
        self.claim(owner, most, now_ms).into_iter().map(|j| j.label).collect()
    }

    fn state(&mut self, name: &str) -> State {
        let job = self.queue().find(&format!("t/{name}")).unwrap();
        assert_eq!(
            self.queue().state_by_log(job.id).unwrap(),
            Some(job.state),
            "the state is not the end of the log"
        );
        job.state
    }

    fn run(&mut self, job: &Job, name: &str) {
        self.queue().start(job, 0).unwrap();
        self.queue().commit(job, adapter(name), 0).unwrap();
    }
}

#[test]
fn submitting_is_idempotent_and_what_the_catalogue_has_is_done_at_once() {
    let mut p = place();
    p.store.commit_adapter(adapter("made")).unwrap();
    let done = p.queue().submit(&[job("a"), job("made"), job("a")], 0).unwrap();
    assert_eq!((done.new, done.known, done.already_made), (2, 1, 1));
    assert_eq!((p.state("a"), p.state("made")), (State::Queued, State::Succeeded));
    // Also when it is dead: the job and its state are what is returned.
    let a = p.claim("w", 1, 0).remove(0);
    p.queue().start(&a, 0).unwrap();
    assert!(p.queue().fail(&a, Failure::Permanent, "NaN", 0).unwrap());
    assert_eq!(p.queue().submit(&[job("a")], 0).unwrap().known, 1);
    assert_eq!(p.state("a"), State::Dead);
    // Unless the adapter was removed since.
    let id = p.store.adapters(&Filter::all()).unwrap()[0].id.clone();
    p.store.remove(&id).unwrap();
    assert_eq!(p.queue().submit(&[job("made")], 0).unwrap().again, 1);
    assert_eq!(p.state("made"), State::Queued);
}

#[test]
fn a_preview_says_what_a_submission_then_does_and_changes_nothing() {
    let mut p = place();
    let removed = p.store.commit_adapter(adapter("removed")).unwrap();
    p.store.commit_adapter(adapter("made")).unwrap();
    p.submit(&[job("removed"), job("bad"), job("unwanted"), job("open")]);
    p.store.remove(&removed.id).unwrap();
    let bad = p.claim("w", 1, 0).remove(0);
    p.queue().start(&bad, 0).unwrap();
    p.queue().fail(&bad, Failure::Permanent, "NaN", 0).unwrap();
    p.queue().cancel("t/unwanted", 0).unwrap();
    let names = ["new", "new", "made", "removed", "removed", "bad", "bad", "unwanted", "open"];
    let jobs: Vec<NewJob> = names.into_iter().map(job).collect();
    let before = format!("{:?}", p.queue().jobs().unwrap());
    let said = p.queue().preview(&jobs).unwrap();
    assert_eq!(format!("{:?}", p.queue().jobs().unwrap()), before);
    assert_eq!((said.new, said.already_made, said.known, said.again), (2, 1, 7, 1));
    assert_eq!((said.dead, said.cancelled), (2, 1));
    assert_eq!(p.queue().submit(&jobs, 0).unwrap(), said);
}

#[test]
fn priority_then_first_come_and_only_what_can_be_packed_together() {
    let mut p = place();
    let mut other = job("other-pack");
    other.pack_key = "base|y".into();
    other.priority = 1;
    let mut foreign = job("foreign");
    foreign.base = "another".into();
    foreign.priority = 9;
    let mut unknown = job("unknown-kind");
    unknown.kind = "dit".into();
    unknown.priority = 9;
    let urgent = NewJob { priority: 5, ..job("urgent") };
    p.submit(&[job("a"), job("b"), other, foreign, unknown, urgent, job("c")]);
    assert_eq!(p.labels("w", 3, 0), ["t/urgent", "t/a", "t/b"]);
    assert_eq!(p.labels("w", 3, 0), ["t/other-pack"]);
    assert_eq!(p.labels("w", 3, 0), ["t/c"]);
    assert!(p.labels("w", 3, 0).is_empty());
    assert_eq!(p.queue().open("base", &["adapter"]).unwrap(), (5, 2));
}

#[test]
fn a_lost_lease_can_commit_nothing_and_the_next_holder_can() {
    let mut p = place();
    p.submit(&[job("a")]);
    let stale = p.claim("w1", 1, 0).remove(0);
    p.queue().start(&stale, 0).unwrap();
    assert_eq!(p.queue().reap(LEASE - 1, |_| false).unwrap(), 0);
    assert_eq!(p.queue().reap(LEASE + 1, |_| false).unwrap(), 1);
    assert_eq!(p.state("a"), State::RetryWait);
    // Backoff first: it may only be slow.
    assert!(p.claim("w2", 1, LEASE + 2).is_empty());
    let fresh = p.claim("w2", 1, LEASE + 20_000).remove(0);
    assert_eq!((fresh.attempt, fresh.token), (2, 2));
    assert_eq!(p.queue().heartbeat(&[(stale.id, stale.token)], 0, LEASE).unwrap(), [Beat::Lost]);
    let refused = p.queue().commit(&stale, adapter("a"), 0);
    assert!(matches!(refused, Err(Error::LeaseLost(_))), "{refused:?}");
    assert!(p.store.adapters(&Filter::all()).unwrap().is_empty());
    assert_eq!(p.store.rebuild_from_receipts().unwrap(), 0, "a refused commit left a receipt");
    assert!(!p.queue().fail(&stale, Failure::Permanent, "x", 0).unwrap());
    p.run(&fresh, "a");
    assert_eq!(p.state("a"), State::Succeeded);
    assert_eq!(p.queue().reap(i64::MAX, |_| true).unwrap(), 0, "what has ended is not reaped");
}

#[test]
fn heartbeats_keep_a_lease_and_a_clock_set_back_does_not_shorten_it() {
    let mut p = place();
    p.submit(&[job("a")]);
    let a = p.claim("w", 1, 1000).remove(0);
    let pair = [(a.id, a.token)];
    assert_eq!(p.queue().heartbeat(&pair, 50_000, LEASE).unwrap(), [Beat::Held]);
    // An hour back: the lease that was given stands.
    assert_eq!(p.queue().heartbeat(&pair, -3_600_000, LEASE).unwrap(), [Beat::Held]);
    assert_eq!(p.queue().reap(100_000, |_| false).unwrap(), 0);
    assert_eq!(p.queue().reap(110_001, |_| false).unwrap(), 1);
}

#[test]
fn errors_are_retried_with_backoff_or_final_by_their_class() {
    let mut p = place();
    p.submit(&[job("a"), job("b")]);
    let mut now = 0;
    for attempt in 1..=3 {
        let a = p.claim("w", 1, now).remove(0);
        assert_eq!((a.label.as_str(), a.attempt), ("t/a", attempt));
        p.queue().start(&a, now).unwrap();
        let dead = p.queue().fail(&a, Failure::Retryable, "disk full", now).unwrap();
        assert_eq!(dead, attempt == 3);
        // While it waits, others go first.
        let b = p.claim("w", 1, now + 1);
        if attempt == 1 {
            assert_eq!(b[0].label, "t/b");
            p.run(&b[0], "b");
        } else {
            assert!(b.is_empty());
        }
        now += 100_000;
    }
    let a = p.queue().find("t/a").unwrap();
    assert_eq!(
        (a.state, a.error_class.as_deref(), a.error.as_deref()),
        (State::Dead, Some("retryable"), Some("disk full"))
    );
    assert_eq!(p.queue().retry("t/a", now).unwrap(), 1);
    let again = p.claim("w", 1, now).remove(0);
    assert_eq!(again.attempt, 1);
    p.queue().start(&again, now).unwrap();
    p.queue().fail(&again, Failure::Permanent, "NaN", now).unwrap();
    assert_eq!(p.queue().find("t/a").unwrap().error_class.as_deref(), Some("permanent"));
}

#[test]
fn what_kills_its_worker_ends_as_poison_and_its_company_does_not() {
    let mut p = place();
    let many = |name| NewJob { max_attempts: 100, ..job(name) };
    p.submit(&[many("bad"), many("good")]);
    assert_eq!(p.claim("w0", 8, 0).len(), 2);
    assert_eq!(p.queue().reap(1, |_| true).unwrap(), 2);
    for death in 1..=3 {
        // Suspects are claimed alone, at once.
        let alone = p.claim("w", 8, 1);
        assert_eq!((alone.len(), alone[0].label.as_str()), (1, "t/bad"), "{death}");
        p.queue().start(&alone[0], 1).unwrap();
        assert_eq!(p.queue().reap(1, |_| true).unwrap(), 1);
    }
    let bad = p.queue().find("t/bad").unwrap();
    assert_eq!((bad.state, bad.error_class.as_deref()), (State::Dead, Some("poison")));
    let good = p.claim("w", 8, 1).remove(0);
    p.run(&good, "good");
    assert_eq!(p.state("good"), State::Succeeded);
}

#[test]
fn what_was_given_up_for_interruptions_goes_on_and_holds_back_what_waits_for_it() {
    let mut p = place();
    let many = NewJob { max_attempts: 100, ..job("a") };
    p.submit(&[
        many,
        job("b"),
        needing("after", "a", false),
        needing("with", "a", true),
        needing("on", "with", true),
    ]);
    let hash = job("a").spec_hash;
    // The same job meets every kill, alone: it is given up, and what waits for any end of it would begin.
    for _ in 0..4 {
        assert_eq!(p.labels("w", 1, 1), ["t/a"]);
        p.queue().reap(1, |_| true).unwrap();
    }
    assert_eq!(p.queue().by_spec(&hash).unwrap().unwrap().error_class.as_deref(), Some("poison"));
    // One that failed by itself is none of them.
    let b = p.claim("w", 1, 1).remove(0);
    assert_eq!(b.label, "t/b");
    p.queue().start(&b, 1).unwrap();
    p.queue().fail(&b, Failure::Permanent, "no", 1).unwrap();
    assert_eq!((p.state("with"), p.state("on")), (State::Dead, State::Dead));
    let all: Vec<String> = ["a", "b", "after", "with", "on"].map(|n| job(n).spec_hash).into();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    // What died with it is queued too.
    assert_eq!(p.queue().go_on(&all, 1).unwrap(), 3);
    assert_eq!(p.queue().go_on(&all, 1).unwrap(), 0);
    assert_eq!(p.labels("w", 8, 1), ["t/a"], "what waits for it waits anew");
    assert_eq!(p.state("b"), State::Dead);
}

#[test]
fn dependants_wait_and_die_with_what_they_need_or_go_on_after_any_end() {
    let mut p = place();
    p.submit(&[job("a"), needing("ok", "a", true), needing("any", "a", false), needing("chain", "ok", true)]);
    let a = p.claim("w", 8, 0);
    assert_eq!(a.len(), 1, "dependants are not ready");
    p.queue().start(&a[0], 0).unwrap();
    p.queue().fail(&a[0], Failure::Permanent, "NaN", 0).unwrap();
    assert_eq!([p.state("ok"), p.state("chain"), p.state("any")], [State::Dead, State::Dead, State::Queued]);
    assert_eq!(p.queue().find("t/ok").unwrap().error.unwrap(), "it needs t/a, which is dead");
    // Retrying only the dependant cannot help; retrying all brings the order back.
    p.queue().retry("t/ok", 0).unwrap();
    assert_eq!(p.state("ok"), State::Dead);
    assert_eq!(p.queue().retry("t/", 0).unwrap(), 3);
    // Also what any end would do for waits anew.
    for expected in [&["t/a"][..], &["t/any", "t/ok"], &["t/chain"]] {
        let mut jobs = p.claim("w", 8, 0);
        jobs.sort_by_key(|j| std::cmp::Reverse(j.label.len()));
        assert_eq!(jobs.iter().map(|j| j.label.as_str()).collect::<Vec<_>>(), expected);
        for j in &jobs {
            p.run(j, &j.label[2..]);
        }
    }
    // A need that has ended already, and one that is nowhere.
    p.submit(&[needing("late", "a", true)]);
    assert_eq!(p.labels("w", 1, 0), ["t/late"]);
    let unknown = p.queue().submit(&[job("x"), needing("y", "nowhere", true)], 0).unwrap_err();
    assert!(unknown.to_string().contains("nowhere"), "{unknown}");
    assert!(p.queue().find("t/x").is_err(), "a submission is all or nothing");
}

/// A diamond: c needs a and b, b needs a. However a ends, each of them ends once.
#[test]
fn a_released_job_waits_for_what_was_queued_again_since_its_claim() {
    let mut p = place();
    p.submit(&[job("a"), needing("b", "a", false)]);
    let a = p.claim("w", 1, 0).remove(0);
    p.queue().start(&a, 0).unwrap();
    p.queue().fail(&a, Failure::Permanent, "x", 0).unwrap();
    let b = p.claim("w", 1, 0).remove(0);
    assert_eq!(b.label, "t/b");
    assert_eq!(p.queue().retry("t/a", 0).unwrap(), 1);
    p.queue().release(&[b], 0).unwrap();
    assert_eq!(p.store.check(&|_, _| {}).unwrap().problems, []);
    assert_eq!(p.labels("w", 1, 0), ["t/a"]);
    assert_eq!(p.labels("w", 1, 0), [""; 0]);
}

#[test]
fn what_needs_a_job_in_two_ways_ends_once() {
    let diamond = || {
        let mut p = place();
        let both = NewJob {
            needs: ["a", "b"].map(|n| Needs { spec_hash: format!("hash-{n}"), only_ok: true }).to_vec(),
            ..job("c")
        };
        p.submit(&[job("a"), needing("b", "a", true), both]);
        p
    };
    let mut p = diamond();
    let a = p.claim("w", 8, 0).remove(0);
    p.queue().start(&a, 0).unwrap();
    assert!(p.queue().fail(&a, Failure::Permanent, "NaN", 0).unwrap());
    assert_eq!([p.state("a"), p.state("b"), p.state("c")], [State::Dead; 3]);
    assert_eq!(p.queue().retry("t/b", 0).unwrap(), 0, "what it needs is dead");
    assert_eq!(p.queue().retry("t/", 0).unwrap(), 3);
    assert_eq!(p.labels("w", 8, 0), ["t/a"]);
    let mut p = diamond();
    assert_eq!(p.queue().cancel("t/a", 0).unwrap(), (1, 0));
    assert_eq!([p.state("a"), p.state("b"), p.state("c")], [State::Cancelled, State::Dead, State::Dead]);
    let mut p = diamond();
    assert_eq!(p.queue().cancel("t/", 0).unwrap(), (3, 0));
    assert_eq!([p.state("a"), p.state("b"), p.state("c")], [State::Cancelled; 3]);
    let mut p = diamond();
    p.claim("w", 8, 0);
    p.queue().cancel("t/a", 0).unwrap();
    p.queue().reap(0, |_| true).unwrap();
    assert_eq!([p.state("a"), p.state("b"), p.state("c")], [State::Cancelled, State::Dead, State::Dead]);
}

#[test]
fn limits_pause_and_cancel_hold_back_what_they_should() {
    let mut p = place();
    let tagged = |name: &str| NewJob { tags: vec!["gpu".into()], ..job(name) };
    p.submit(&[tagged("a"), tagged("b"), tagged("c"), job("d")]);
    p.queue().limit("gpu", Some(2)).unwrap();
    let first = p.claim("w", 8, 0);
    assert_eq!(first.iter().map(|j| j.label.as_str()).collect::<Vec<_>>(), ["t/a", "t/b", "t/d"]);
    assert!(p.claim("w", 8, 0).is_empty(), "the limit is reached");
    p.run(&first[0], "a");
    assert!(p.queue().pause(true).unwrap() && !p.queue().pause(true).unwrap());
    assert!(p.claim("w", 8, 0).is_empty(), "paused");
    assert!(p.queue().pause(false).unwrap());
    // A running job is asked, a waiting one ends at once.
    p.queue().start(&first[1], 0).unwrap();
    assert_eq!(p.queue().cancel("t/", 0).unwrap(), (1, 2));
    assert_eq!([p.state("b"), p.state("c")], [State::Running, State::Cancelled]);
    let pairs = [(first[1].id, first[1].token), (first[2].id, first[2].token)];
    assert_eq!(p.queue().heartbeat(&pairs, 0, LEASE).unwrap(), [Beat::CancelRequested; 2]);
    assert!(
        matches!(p.queue().start(&first[2], 0), Err(Error::LeaseLost(_))),
        "not begun once it is cancelled"
    );
    assert!(p.queue().cancelled(&first[1], 0).unwrap());
    assert_eq!(p.state("b"), State::Cancelled);
    // Its worker died before it saw the request.
    p.queue().reap(0, |_| true).unwrap();
    assert_eq!(p.state("d"), State::Cancelled);
    assert_eq!(p.queue().retry("t/", 0).unwrap(), 3);
}

#[test]
fn a_release_costs_no_attempt_and_illegal_changes_are_typed_errors() {
    let mut p = place();
    p.submit(&[job("a")]);
    let a = p.claim("w", 1, 0).remove(0);
    p.queue().start(&a, 0).unwrap();
    let twice = p.queue().start(&a, 0);
    assert!(matches!(twice, Err(Error::Illegal { .. })), "{twice:?}");
    p.queue().release(std::slice::from_ref(&a), 0).unwrap();
    let b = p.claim("w", 1, 0).remove(0);
    assert_eq!((b.attempt, b.token), (1, 2));
    assert!(
        matches!(p.queue().commit(&b, adapter("a"), 0), Err(Error::LeaseLost(_))),
        "it was never started"
    );
}

#[test]
fn a_history_holds_every_change_in_order() {
    let mut p = place();
    p.submit(&[job("a")]);
    let a = p.claim("worker-1", 1, 5).remove(0);
    p.queue().start(&a, 6).unwrap();
    p.queue().note(&[(a.id, "step 3 of 9".into())], 7).unwrap();
    p.queue().commit(&a, adapter("a"), 8).unwrap();
    let log: Vec<(i64, String)> = p.queue().log(a.id).unwrap().into_iter().map(|l| (l.at_ms, l.to)).collect();
    let expected = [(0, "queued"), (5, "leased"), (6, "running"), (7, ""), (8, "succeeded")];
    assert_eq!(log, expected.map(|(t, s)| (t, s.to_owned())));
}

#[derive(Debug, Clone)]
enum Act {
    Claim(usize),
    Start(usize),
    Beat(usize),
    Commit(usize),
    Fail(usize, bool),
    Release(usize),
    Cancelled(usize),
    Reap(bool),
    Cancel,
    Retry,
    Pause(bool),
    Wait(i64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1usize..4).prop_map(Act::Claim),
        (0usize..8).prop_map(Act::Start),
        (0usize..8).prop_map(Act::Beat),
        (0usize..8).prop_map(Act::Commit),
        (0usize..8, any::<bool>()).prop_map(|(i, b)| Act::Fail(i, b)),
        (0usize..8).prop_map(Act::Release),
        (0usize..8).prop_map(Act::Cancelled),
        any::<bool>().prop_map(Act::Reap),
        Just(Act::Cancel),
        Just(Act::Retry),
        any::<bool>().prop_map(Act::Pause),
        (0i64..200_000).prop_map(Act::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever workers and people do in whatever order, with leases of any age: states are the ends of their logs, every job
    /// that succeeded has exactly one adapter, and no other job has one.
    #[test]
    fn no_order_of_actions_breaks_the_queue(acts in prop::collection::vec(act(), 1..60)) {
        let mut p = place();
        let both = NewJob {
            needs: ["a", "c"].map(|n| Needs { spec_hash: format!("hash-{n}"), only_ok: true }).to_vec(),
            ..job("f")
        };
        p.submit(&[job("a"), job("b"), needing("c", "a", true), needing("d", "b", false), job("e"), both]);
        let mut leases: Vec<Job> = Vec::new();
        let mut now = 0;
        for act in acts {
            let held = |i: usize, leases: &Vec<Job>| leases.get(i).cloned();
            match act {
                Act::Claim(n) => {
                    let got = p.claim("w", n, now);
                    for j in &got {
                        prop_assert!(!leases.iter().any(|l| l.id == j.id && l.token == j.token), "a token came twice");
                    }
                    leases.extend(got);
                }
                Act::Start(i) => if let Some(j) = held(i, &leases) { let _ = p.queue().start(&j, now); },
                Act::Beat(i) => if let Some(j) = held(i, &leases) { p.queue().heartbeat(&[(j.id, j.token)], now, LEASE).unwrap(); },
                Act::Commit(i) => if let Some(j) = held(i, &leases) {
                    match p.queue().commit(&j, adapter(&j.label[2..]), now) {
                        Ok(_) | Err(Error::LeaseLost(_)) => {}
                        Err(e) => prop_assert!(false, "{e}"),
                    }
                },
                Act::Fail(i, again) => if let Some(j) = held(i, &leases) {
                    let class = if again { Failure::Retryable } else { Failure::Permanent };
                    p.queue().fail(&j, class, "x", now).unwrap();
                },
                Act::Release(i) => if let Some(j) = held(i, &leases) { p.queue().release(&[j], now).unwrap(); },
                Act::Cancelled(i) => if let Some(j) = held(i, &leases) { p.queue().cancelled(&j, now).unwrap(); },
                Act::Reap(gone) => { p.queue().reap(now, |_| gone).unwrap(); }
                Act::Cancel => { p.queue().cancel(["t/a", "t/b", "t/"][now as usize % 3], now).unwrap(); }
                Act::Retry => { p.queue().retry("", now).unwrap(); }
                Act::Pause(on) => { p.queue().pause(on).unwrap(); }
                Act::Wait(ms) => now += ms,
            }
        }
        let jobs = p.queue().jobs().unwrap();
        let made = p.store.adapters(&Filter::all()).unwrap();
        for j in &jobs {
            prop_assert_eq!(p.queue().state_by_log(j.id).unwrap(), Some(j.state));
            let own = made.iter().filter(|a| a.spec_hash == j.spec_hash).count();
            prop_assert_eq!(own, usize::from(j.state == State::Succeeded), "{} is {:?}", j.label, j.state);
        }
        let report = p.store.check(&|_, _| {}).unwrap();
        prop_assert!(report.problems.is_empty(), "{:?}", report.problems);
        // And nothing is stuck: retried, unpaused and done, everything succeeds.
        p.queue().pause(false).unwrap();
        for _ in 0..20 {
            now += 100_000_000;
            p.queue().reap(now, |_| true).unwrap();
            p.queue().retry("", now).unwrap();
            for j in p.claim("last", 8, now) {
                if p.queue().start(&j, now).is_ok() {
                    p.queue().commit(&j, adapter(&j.label[2..]), now).unwrap();
                }
            }
        }
        let states: Vec<State> = p.queue().jobs().unwrap().into_iter().map(|j| j.state).collect();
        prop_assert!(states.iter().all(|s| *s == State::Succeeded), "{states:?}");
    }
}
