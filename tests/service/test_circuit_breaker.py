from service.circuit_breaker import CircuitBreaker


def test_it_opens_after_failures_in_a_row_and_probes_once_a_pause() -> None:
    now_s = 0.0
    breaker = CircuitBreaker(failures=2, pause_s=1.0, clock=lambda: now_s)
    breaker.record_failure()
    breaker.record_success()  # not in a row
    breaker.record_failure()
    assert breaker.lets_through()
    breaker.record_failure()
    assert breaker.is_open
    assert not breaker.lets_through()
    now_s = 1.0
    assert [breaker.lets_through() for _ in range(3)] == [True, False, False]
    breaker.record_failure()
    now_s = 1.9
    assert not breaker.lets_through()
    now_s = 2.0
    assert breaker.lets_through()
    breaker.record_success()
    assert not breaker.is_open
    assert all(breaker.lets_through() for _ in range(3))
