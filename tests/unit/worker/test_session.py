"""The session's promises, each as a fact."""

import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker._outcomes import NO_RESULT, Completed, Failed, Snoozed
from jobwire_worker._reports import MAX_LINES_PER_REPORT
from jobwire_worker._session import FRAME_LIMIT_BYTES

from tests.unit.worker.scripts import Script, closed, given_up, key_of, seconds, started, uncertain, verdict_on

# --- hello, welcome ---


def test_the_first_frame_is_a_hello_and_nothing_follows_before_the_welcome() -> None:
    script = Script(connect=False)
    script.session.opened(script.now)
    hello = script.frame()
    assert [field.name for field, _ in hello.ListFields()] == ["hello"]
    assert (hello.hello.session, hello.hello.epoch, list(hello.hello.queues), hello.hello.concurrency) == ((1).to_bytes(16, "big"), 1, ["q"], 3)
    script.now += 2
    assert script.session.next_frame(script.now) is None


def test_the_epoch_grows_with_each_connection_and_the_session_stays() -> None:
    script = Script(connect=False)
    hellos = []
    for _ in range(3):
        hellos.append(script.connect())
        script.session.closed()
    assert [hello.epoch for hello in hellos] == [1, 2, 3]
    assert len({hello.session for hello in hellos}) == 1


def test_hello_lists_all_that_is_held_whether_it_runs_or_its_finish_waits() -> None:
    script = Script()
    script.frame()
    script.deliver("runs", "ended", "acked")
    script.session.ended(script.running["ended"], NO_RESULT)
    script.session.ended(script.running["acked"], NO_RESULT)
    finishes = script.frame().finishes
    script.ack(next(finish for finish in finishes if finish.id == "acked"))
    script.session.closed()
    assert {held.id for held in script.connect().held} == {"runs", "ended"}


def test_a_second_welcome_and_a_frame_before_the_first_end_the_stream() -> None:
    assert closed(Script().receive(pb.WorkResponse(welcome=pb.Welcome()))) == ["violation"]
    script = Script(connect=False)
    script.open()
    assert closed(script.receive(pb.WorkResponse(ping=pb.Ping()))) == ["violation"]


# --- credit ---


def test_credit_is_what_was_delivered_and_the_free_slots() -> None:
    script = Script(concurrency=3)
    assert script.frame().credit.jobs == 3
    script.deliver("a", "b")
    assert not script.frame().HasField("credit")
    script.session.ended(script.running["a"], NO_RESULT)
    script.session.freed(script.running["a"])
    assert script.frame().credit.jobs == 4


def test_a_slot_is_free_when_its_handler_has_gone_and_not_when_its_attempt_has_ended() -> None:
    script = Script(concurrency=1)
    script.frame()
    script.deliver("a")
    script.session.ended(script.running["a"], Failed("Timeout", "too long"))
    assert not script.frame().HasField("credit")
    script.session.freed(script.running["a"])
    assert script.frame().credit.jobs == 2


def test_queues_with_limits_have_credit_of_their_own() -> None:
    script = Script(concurrency=3, queue_limits={"reports": 1, "mail": 2})
    frame = script.frame()
    assert {credit.queue: credit.jobs for credit in frame.credit.queues} == {"reports": 1, "mail": 2}
    script.deliver("a", queue="reports")
    script.session.ended(script.running["a"], NO_RESULT)
    script.session.freed(script.running["a"])
    assert {credit.queue: credit.jobs for credit in script.frame().credit.queues} == {"reports": 2, "mail": 2}


def test_credit_of_a_new_stream_begins_anew_without_the_slots_that_are_taken() -> None:
    script = Script(concurrency=3)
    script.frame()
    script.deliver("a", "b")
    script.session.closed()
    script.connect()
    assert script.frame().credit.jobs == 1


def test_a_job_beyond_the_credit_is_handed_back_unstarted() -> None:
    script = Script(concurrency=1)
    script.frame()
    assert started(script.deliver("a", "b")) == ["a"]
    (finish,) = script.frame().finishes
    assert (finish.id, finish.WhichOneof("outcome")) == ("b", "release")


def test_credit_stands_still_while_too_many_finishes_wait_for_their_acks() -> None:
    script = Script(concurrency=1)
    delivered = 0
    script.frame()
    while script.credit > delivered:
        delivered += 1
        id_ = f"j{delivered}"
        script.deliver(id_)
        script.session.ended(script.running[id_], NO_RESULT)
        script.session.freed(script.running[id_])
        script.frame()
    assert delivered == script.session.held == 1010


def test_a_broker_that_drains_gets_no_more_credit_until_it_resumes() -> None:
    script = Script(concurrency=1)
    script.frame()
    script.deliver("a")
    script.receive(pb.WorkResponse(drain=pb.Drain()))
    script.session.ended(script.running["a"], NO_RESULT)
    script.session.freed(script.running["a"])
    assert not script.frame().HasField("credit")
    script.receive(pb.WorkResponse(resume=pb.Resume()))
    assert script.frame().credit.jobs == 2


# --- finishes ---


def test_a_finish_is_sent_once_on_a_stream_and_again_on_each_new_one_until_it_is_acked() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.ended(script.running["a"], Completed(json='{"n":1}'))
    sent = script.frame().finishes
    assert [finish.complete.result.json for finish in sent] == ['{"n":1}']
    assert not script.frame().finishes
    script.session.closed()
    script.connect()
    again = script.frame().finishes
    assert list(again) == list(sent)
    script.ack(again[0])
    assert script.session.held == 0
    script.session.closed()
    assert not script.connect().held
    assert not script.frame().finishes


def test_a_finish_made_while_the_stream_is_away_is_sent_when_it_is_back() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.closed()
    script.session.ended(script.running["a"], Snoozed(90))
    script.connect()
    (finish,) = script.frame().finishes
    assert finish.snooze.delay == seconds(90)


def test_the_latest_checkpoint_is_sent_again_on_each_new_stream_before_the_finish() -> None:
    script = Script()
    script.frame()
    script.deliver("a", "b", "c")
    for id_ in ("a", "b"):
        for page in (1, 2):
            script.session.reported(script.running[id_], None, (), job_pb2.Payload(json=f"{page}"))
    script.session.ended(script.running["a"], Failed("E", ""))
    script.session.ended(script.running["c"], NO_RESULT)
    first = script.frame()
    for _ in range(2):
        # The stream breaks, and nobody knows what has come through.
        script.session.closed()
        script.connect()
        again = script.frame()
        assert [(report.id, report.token, report.sequence, report.checkpoint.json) for report in again.checkpoints] == [("a", 1, 2, "2"), ("b", 2, 2, "2")]
        assert [finish.id for finish in again.finishes] == [finish.id for finish in first.finishes] == ["a", "c"]
    for finish in first.finishes:
        script.ack(finish)
    script.session.closed()
    script.connect()
    script.now += 0.101
    assert [report.id for report in script.frame().checkpoints] == ["b"]


def test_a_lease_that_is_lost_takes_its_checkpoint_along() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.reported(script.running["a"], None, (), job_pb2.Payload(json="1"))
    script.frame()
    script.session.closed()
    script.connect([verdict_on(script.running["a"], pb.VERDICT_STALE_LEASE)])
    assert not script.frame().checkpoints


def test_the_first_outcome_of_an_attempt_stands() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.ended(script.running["a"], Failed("Timeout", "too long"))
    script.session.ended(script.running["a"], NO_RESULT)
    (finish,) = script.frame().finishes
    assert finish.fail.failure.type == "Timeout"


def test_every_verdict_ends_the_keeping() -> None:
    for verdict in (pb.VERDICT_OK, pb.VERDICT_ALREADY_FINISHED, pb.VERDICT_STALE_LEASE, pb.VERDICT_CANCELLED, pb.VERDICT_NOT_FOUND):
        script = Script()
        script.frame()
        script.deliver("a")
        script.session.ended(script.running["a"], NO_RESULT)
        script.ack(script.frame().finishes[0], verdict)
        assert script.session.held == 0


def test_verdicts_on_resume_drop_the_job_and_its_finish() -> None:
    script = Script()
    script.frame()
    script.deliver("runs", "ended", "kept")
    script.session.ended(script.running["ended"], NO_RESULT)
    script.session.closed()
    script.open()
    lost = [verdict_on(script.running[id_], pb.VERDICT_STALE_LEASE) for id_ in ("runs", "ended")]
    effects = script.receive(pb.WorkResponse(welcome=pb.Welcome(held=lost)))
    assert given_up(effects) == [("runs", "stale_lease")]
    script.session.ended(script.running["runs"], NO_RESULT)
    script.session.freed(script.running["runs"])
    assert not script.frame().finishes
    assert script.session.held == 1


def test_a_result_over_the_limit_of_the_broker_becomes_a_permanent_failure() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.ended(script.running["a"], Completed(json='"' + "x" * 1000 + '"'))
    (finish,) = script.frame().finishes
    assert (finish.fail.failure.type, finish.fail.permanent) == ("RESULT_TOO_LARGE", True)


def test_no_frame_is_over_three_mebibytes() -> None:
    script = Script(concurrency=10)
    script.session.max_result_bytes = 1 << 20
    script.frame()
    script.deliver(*"abcdefgh")
    for lease in script.running.values():
        script.session.ended(lease, Completed(json='"' + "é" * 500_000 + '"'))
        script.session.freed(lease)
    frames = []
    while (frame := script.frame()).ListFields():
        frames.append(frame)
    assert sorted(finish.id for frame in frames for finish in frame.finishes) == list("abcdefgh")
    assert max(frame.ByteSize() for frame in frames) <= FRAME_LIMIT_BYTES


# --- reports ---


def test_of_several_reports_of_progress_the_latest_is_sent_and_before_the_finish() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    lease = script.running["a"]
    script.session.reported(lease, job_pb2.Progress(percent=10))
    assert [report.progress.percent for report in script.frame().progress] == [10]
    script.session.reported(lease, job_pb2.Progress(percent=20))
    script.session.reported(lease, job_pb2.Progress(percent=30))
    assert not script.frame().progress, "at most ten frames of reports a second"
    script.session.ended(lease, NO_RESULT)
    frame = script.frame()
    assert [report.progress.percent for report in frame.progress] == [30]
    assert len(frame.finishes) == 1


def test_progress_alone_goes_out_within_a_tenth_of_a_second() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.reported(script.running["a"], job_pb2.Progress(percent=10))
    script.frame()
    script.session.reported(script.running["a"], job_pb2.Progress(percent=20))
    assert script.session.next_tick(script.now) <= script.now + 0.1
    script.now += 0.101
    assert [report.progress.percent for report in script.frame().progress] == [20]


def test_log_lines_go_in_order_in_reports_of_at_most_a_hundred() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.reported(script.running["a"], None, [job_pb2.LogLine(sequence=number) for number in range(1, 251)])
    reports = script.frame().logs
    assert [line.sequence for report in reports for line in report.lines] == list(range(1, 251))
    assert max(len(report.lines) for report in reports) <= MAX_LINES_PER_REPORT


def test_the_reports_of_a_job_go_before_its_end_even_when_they_fill_frames() -> None:
    script = Script(concurrency=1000)
    script.frame()
    script.deliver(*(f"j{number}" for number in range(1000)))
    for lease in script.running.values():
        script.session.reported(lease, job_pb2.Progress(percent=10, message="x" * 512, data_json='"' + "x" * 4000 + '"'))
        script.session.ended(lease, NO_RESULT)
    reported: set[str] = set()
    ended: set[str] = set()
    frames = 0
    while (frame := script.frame()).ListFields():
        frames += 1
        reported |= {report.id for report in frame.progress}
        ended |= {finish.id for finish in frame.finishes}
        assert ended <= reported
        assert frame.ByteSize() <= FRAME_LIMIT_BYTES
    assert (frames > 1, len(ended)) == (True, 1000)


def test_reports_on_a_lost_lease_are_dropped() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.reported(script.running["a"], job_pb2.Progress(percent=10))
    cancel = pb.Cancel(queue="q", id="a", token=script.running["a"].token, reason=pb.CANCEL_REASON_STALE_LEASE)
    assert given_up(script.receive(pb.WorkResponse(cancels=[cancel]))) == [("a", "stale_lease")]
    script.session.reported(script.running["a"], job_pb2.Progress(percent=20))
    assert not script.frame().progress


# --- cancel ---


def test_a_cancel_is_receipted_and_told_with_its_grace() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    lease = script.running["a"]
    cancel = pb.Cancel(queue="q", id="a", token=lease.token, reason=pb.CANCEL_REASON_REQUESTED, grace=seconds(5))
    (effect,) = script.receive(pb.WorkResponse(cancels=[cancel]))
    assert given_up([effect]) == [("a", "requested")]
    assert [(receipt.id, receipt.token) for receipt in script.frame().cancel_receipts] == [("a", lease.token)]
    script.session.ended(lease, NO_RESULT)
    assert script.frame().finishes[0].HasField("complete"), "a completion within the grace counts"


def test_a_job_that_took_too_long_is_forgotten_and_its_handler_told() -> None:
    script = Script(concurrency=1)
    script.frame()
    script.deliver("a")
    lease = script.running["a"]
    cancel = pb.Cancel(queue="q", id="a", token=lease.token, reason=pb.CANCEL_REASON_TIMEOUT)
    assert given_up(script.receive(pb.WorkResponse(cancels=[cancel, cancel]))) == [("a", "timeout")]
    frame = script.frame()
    assert not frame.cancel_receipts
    assert script.session.held == 0
    assert script.session.running == 1, "a handler that does not end keeps its slot"
    script.session.ended(lease, NO_RESULT)
    assert not script.frame().finishes
    script.session.closed()
    assert not script.connect().held


def test_a_cancel_of_an_older_lease_leaves_the_newer_one_alone() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    cancel = pb.Cancel(queue="q", id="a", token=script.running["a"].token - 1, reason=pb.CANCEL_REASON_REQUESTED)
    assert given_up(script.receive(pb.WorkResponse(cancels=[cancel]))) == []


# --- time ---


def test_a_ping_is_answered_with_its_number() -> None:
    script = Script()
    script.frame()
    script.ping(number=7)
    assert script.frame().pong.number == 7


def test_some_frame_goes_at_least_every_heartbeat_interval() -> None:
    script = Script()
    script.frame()
    assert script.session.next_frame(script.now) is None
    assert script.session.next_tick(script.now) < script.now + 2
    script.now += 1.9
    assert script.session.next_frame(script.now) is not None
    assert script.session.next_frame(script.now) is None


def test_a_silent_stream_is_closed_with_half_the_session_time_left() -> None:
    script = Script()
    assert closed(script.tick(4.9)) == []
    assert closed(script.tick(0.1)) == ["silent"]
    assert script.session.next_frame(script.now) is None


def test_a_broker_that_does_not_welcome_is_left_after_a_third_of_the_session_time_and_later_more_patiently() -> None:
    script = Script(connect=False)
    patience = []
    for _ in range(4):
        script.open()
        began = script.now
        while not closed(script.tick(0.1)):
            pass
        patience.append(script.now - began)
        script.session.closed()
    assert patience == [pytest.approx(expected, abs=0.15) for expected in (3.4, 6.7, 10, 10)]
    script.connect()
    script.session.closed()
    script.open()
    assert closed(script.tick(3.4)) == ["silent"]


def test_below_half_of_its_lease_a_worker_moves_when_another_broker_is_known_and_only_once_per_session_time() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.ping(lease_left_s=5.5)
    assert closed(script.tick(1.0, other_brokers=False)) == []
    assert closed(script.tick(other_brokers=True)) == ["move"]
    script.session.closed()
    script.connect()
    script.ping(lease_left_s=3)
    assert closed(script.tick(other_brokers=True)) == []


def test_at_zero_nothing_new_starts_and_handlers_are_told() -> None:
    script = Script(concurrency=3)
    script.frame()
    script.deliver("runs")
    assert uncertain(script.ping(lease_left_s=0)) == [("runs", True)]
    assert started(script.deliver("late")) == []
    effects = script.ping(lease_left_s=9)
    assert uncertain(effects) == [("runs", False)]
    assert started(effects) == ["late"]


def test_the_lease_runs_down_while_the_stream_is_away_and_results_are_kept() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.closed()
    assert script.session.next_tick(script.now) <= script.now + 10
    assert uncertain(script.tick(10.0)) == [("a", True)]
    script.session.ended(script.running["a"], NO_RESULT)
    script.connect()
    assert [finish.id for finish in script.frame().finishes] == ["a"]


def test_a_welcome_makes_the_lease_sure_again() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.closed()
    script.tick(11.0)
    script.open()
    effects = script.receive(pb.WorkResponse(welcome=pb.Welcome(session_time=seconds(10))))
    assert uncertain(effects) == [("a", False)]


# --- going away ---


def test_go_away_closes_the_stream_and_says_for_how_long_to_keep_off() -> None:
    script = Script()
    effects = script.receive(pb.WorkResponse(go_away=pb.GoAway(retry_after=seconds(3))))
    assert closed(effects) == ["go_away"]
    assert script.session.next_frame(script.now) is None


def test_a_superseded_worker_becomes_a_new_session_gives_up_what_runs_and_still_sends_what_ended() -> None:
    script = Script()
    script.frame()
    script.deliver("runs", "ended")
    script.session.ended(script.running["ended"], NO_RESULT)
    before = script.session.id
    effects = script.session.superseded()
    assert given_up(effects) == [("runs", "stale_lease")]
    hello = script.connect()
    assert (hello.session != before, hello.epoch, list(hello.held)) == (True, 1, [])
    assert [finish.id for finish in script.frame().finishes] == ["ended"]


def test_the_same_job_and_token_starts_once() -> None:
    script = Script()
    script.frame()
    frame = pb.WorkResponse(jobs=[pb.Delivery(queue="q", id="a", token=7)])
    assert started(script.receive(frame)) == ["a"]
    assert started(script.receive(frame)) == []


def test_a_drain_is_told_once_per_stream_and_later_jobs_go_back_unstarted() -> None:
    script = Script()
    script.frame()
    script.deliver("runs")
    script.session.drain()
    assert script.frame().HasField("draining")
    assert started(script.deliver("late")) == []
    frame = script.frame()
    assert not frame.HasField("credit")
    assert not frame.HasField("draining")
    assert [(finish.id, finish.release.reason) for finish in frame.finishes] == [("late", pb.RELEASE_REASON_DRAINING)]
    script.session.closed()
    script.connect()
    assert script.frame().HasField("draining")


def test_a_drain_hands_back_what_waits_for_a_sure_lease() -> None:
    script = Script()
    script.frame()
    script.ping(lease_left_s=0)
    script.deliver("waits")
    script.session.drain()
    assert [finish.id for finish in script.frame().finishes] == ["waits"]
    assert started(script.ping(lease_left_s=9)) == []


def test_goodbye_is_the_last_frame_and_comes_after_all_finishes() -> None:
    script = Script()
    script.frame()
    script.deliver("a")
    script.session.drain()
    script.session.ended(script.running["a"], NO_RESULT)
    script.session.freed(script.running["a"])
    script.session.say_goodbye()
    frame = script.frame()
    assert [key_of(finish)[1] for finish in frame.finishes] == ["a"]
    assert frame.HasField("goodbye")
    assert script.session.next_frame(script.now + 60) is None


def test_a_session_is_idle_when_nothing_runs_and_all_is_acked() -> None:
    script = Script()
    script.frame()
    assert script.session.idle
    script.deliver("a")
    script.session.ended(script.running["a"], NO_RESULT)
    script.session.freed(script.running["a"])
    finish = script.frame().finishes[0]
    assert not script.session.idle
    script.ack(finish)
    assert script.session.idle


def test_giving_up_tells_all_that_runs() -> None:
    script = Script()
    script.frame()
    script.deliver("a", "b")
    script.session.ended(script.running["a"], NO_RESULT)
    assert given_up(script.session.give_up()) == [("b", "shutdown")]
