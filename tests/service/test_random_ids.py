import re

from service.random_ids import new_recommendation_id, new_request_id


def test_ids_have_their_form_and_sort_by_time() -> None:
    ids = [new_recommendation_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", one) for one in ids)
    times = [one[:10] for one in ids]
    assert times == sorted(times)
    assert re.fullmatch("[0-9a-f]{32}", new_request_id())
