"""The playground in a real browser, on a real service."""

import json
import shlex
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from browser_page import open_page, wait_for
from live_service import running_service
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select
from tiny_bundle_builder import TINY_VERSIONS

from lsvcr_client import Client, new_event
from lsvcr_client.experiments import Arm, Experiment
from lsvcr_client.requests import (
    ActivateModel,
    DeleteExperiment,
    DescribeVideos,
    ListExperiments,
    ListModels,
    PutExperiment,
    ReadExperiment,
    ReadHistory,
    RecentUsers,
    RecommendComments,
    RecommendVideos,
    SendEvents,
)
from lsvcr_client.wishes import History

CONTRAST = Path(__file__).with_name("contrast.js").read_text()


def find(page: Chrome, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def shown_videos(page: Chrome) -> list[str]:
    ids: list[str] = page.execute_script(
        "return [...document.querySelectorAll('#videos > li')].map(card => card.dataset.id)"
    )
    return ids


def press(page: Chrome, label: str) -> None:
    """Press the button of an accessible name, as somebody who can see it."""
    button = find(page, f'[aria-label="{label}"]')
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def other_videos(page: Chrome, before: list[str]) -> list[str]:
    script = "return [...document.querySelectorAll('#videos > li')].map(card => card.dataset.id)"
    expression = script.removeprefix("return ")
    wait_for(page, f"return ({expression}).join() !== arguments[0].join()", before)
    return shown_videos(page)


def show_user(page: Chrome, user: str) -> None:
    field = find(page, "#user")
    field.clear()
    field.send_keys(user, Keys.ENTER)
    wait_for(
        page,
        "return document.querySelector('#videos-title').textContent === arguments[0]",
        f"Videos for {user}",
    )


@pytest.fixture
def stored_user(service: Client, request: pytest.FixtureRequest) -> str:
    """A user with a small stored history."""
    user = f"user-{request.node.name}"
    events = [new_event(user, "video_watch", video_id=f"v{number}") for number in (3, 7, 12)]
    events += [new_event(user, "comment_like", comment_id=f"c{number}") for number in (5, 9)]
    assert service.send(SendEvents(events)).accepted == len(events)
    return user


def test_clicking_builds_an_anonymous_history_and_moves_the_videos(page: Chrome) -> None:
    popular = shown_videos(page)
    assert len(popular) == 10
    assert find(page, "#videos-note").text == "the popular list"
    press(page, f"Like: title of {popular[2]}")
    liked = other_videos(page, popular)
    assert popular[2] not in liked  # seen by now
    assert "from the model" in find(page, "#videos-note").text
    assert find(page, "#history-title").text == "History: 1 videos, 0 comments"
    assert find(page, "#history").text.startswith(f"liked title of {popular[2]}")
    assert find(page, "#videos .badge").is_displayed()
    press(page, f"Watch: title of {liked[0]}")
    watched = other_videos(page, liked)
    find(page, "#forget").click()
    assert other_videos(page, watched) == popular


def test_a_stored_users_clicks_are_events(page: Chrome, service: Client, stored_user: str) -> None:
    show_user(page, stored_user)
    before = shown_videos(page)
    wanted = service.send(RecommendVideos(user_id=stored_user, k=10))
    assert before == [item.video_id for item in wanted.items]
    assert "because of" in find(page, "#view-recommend").text
    press(page, f"Like: title of {before[4]}")
    other_videos(page, before)
    newest = service.send(ReadHistory(stored_user)).videos[-1]
    assert (newest.video_id, newest.type) == (before[4], "video_like")
    assert stored_user in service.send(RecentUsers()).user_ids


def test_an_open_video_shows_its_comments_in_both_orders(
    page: Chrome, service: Client, stored_user: str
) -> None:
    show_user(page, stored_user)
    video = shown_videos(page)[0]
    press(page, f"Comments under: title of {video}")
    wait_for(page, "return document.querySelectorAll('#own > li').length")
    own = service.send(RecommendComments(user_id=stored_user, video_id=video, k=50)).items
    nobody = RecommendComments(history=History(), video_id=video, k=50)
    popular = service.send(nobody).items
    for name, items in (("own", own), ("popular", popular)):
        texts = [entry.text for entry in page.find_elements(By.CSS_SELECTOR, f"#{name} > li")]
        assert [item.text in text for item, text in zip(items, texts, strict=True)]
    press(page, f"Like: {own[-1].text}")
    wait_for(
        page,
        "return document.querySelector('#history li.comment').textContent.includes(arguments[0])",
        own[-1].text,
    )
    comments = service.send(ReadHistory(stored_user)).comments
    assert comments[-1].comment_id == own[-1].comment_id


def test_everything_can_be_done_with_the_keyboard(page: Chrome, stored_user: str) -> None:
    def active(property_name: str) -> str:
        return str(page.execute_script(f"return document.activeElement.{property_name}"))

    def tab_until(property_name: str, value: str) -> None:
        for _ in range(60):
            ActionChains(page).send_keys(Keys.TAB).perform()
            if active(property_name).startswith(value):
                return
        raise AssertionError(f"Tab never reaches {value}")

    tab_until("textContent", "Skip to content")
    tab_until("id", "user")
    ActionChains(page).send_keys(stored_user, Keys.ENTER).perform()
    wait_for(
        page, "return document.querySelector('#videos-title').textContent.startsWith('Videos for')"
    )
    before = shown_videos(page)
    tab_until("dataset.focus", f"video_like {before[0]}")
    ActionChains(page).send_keys(Keys.SPACE).perform()
    after = other_videos(page, before)
    assert after[0] in active("dataset.focus")  # the card is gone: the focus is at its successor
    ActionChains(page).send_keys(*[Keys.TAB] * 3, Keys.ENTER).perform()
    wait_for(page, "return document.activeElement.id === 'comments-title'")


def test_filters_and_diversity_narrow_the_answer(page: Chrome, service: Client) -> None:
    before = shown_videos(page)
    press(page, "k1: allowed")
    only = other_videos(page, before)
    assert all(int(video[1:]) % 4 == 1 for video in only)
    press(page, "k1: only")
    never = other_videos(page, only)
    assert not any(int(video[1:]) % 4 == 1 and int(video[1:]) % 10 for video in never)
    find(page, "#wishes [type=reset]").click()
    assert other_videos(page, never) == before
    field = find(page, "[name=max_per_category]")
    field.send_keys("1", Keys.TAB)
    capped = other_videos(page, before)
    categories = [video.category for video in service.send(DescribeVideos(capped)).videos]
    named = [category for category in categories if category is not None]
    assert len(set(named)) == len(named)


def test_each_request_is_there_as_curl(page: Chrome) -> None:
    press(page, "Like: title of v46")
    wait_for(page, "return document.querySelector('#videos-note').textContent.includes('model')")
    shown = shown_videos(page)
    commands = [
        str(each.get_attribute("textContent"))
        for each in page.find_elements(By.CSS_SELECTOR, "#requests .curl")
    ]
    command = next(each for each in commands if "/recommend/videos" in each)
    assert '"history"' in command
    program, silent, target, flag, header, data, body = shlex.split(
        command.replace("\\\n", "")  # which the shell reads as nothing
    )
    assert (program, silent, flag, data) == ("curl", "-s", "-H", "-d")
    request = Request(target, body.encode(), dict([header.split(": ")]))
    with urlopen(request) as answer:
        assert [item["video_id"] for item in json.load(answer)["items"]] == shown


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(page: Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        for view, settled in (
            ("recommend", "#videos > li"),
            ("compare", "#left-choice > option"),
            ("admin", "#models tr"),
        ):
            find(page, f'nav [href="#{view}"]').click()
            wait_for(page, "return document.querySelector(arguments[0])", settled)
            found = page.execute_script(f"{CONTRAST}; return inspect()")
            assert found["darkPage"] == (scheme == "dark")
            assert found["checked"] > 20
            assert found["faint"] == []
            assert found["nameless"] == []
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_is_cut_off_on_a_narrow_screen(page: Chrome, service: Client) -> None:
    arms = [Arm(name="control", weight=1.0, model_version=TINY_VERSIONS[0])]
    service.send(PutExperiment(Experiment(name="narrow", arms=arms, control="control")))
    metrics = {"width": 320, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for view, settled in (
            ("recommend", "#videos > li"),
            ("compare", "#left-choice > option"),
            ("admin", ".experiment"),
        ):
            find(page, f'nav [href="#{view}"]').click()
            wait_for(page, "return document.querySelector(arguments[0])", settled)
            wide = page.execute_script(
                "return [...document.querySelectorAll('main *')].filter((each) =>"
                " !each.closest('.scroll, .hidden, pre') &&"
                " each.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML)"
            )
            assert wide == []
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        service.send(DeleteExperiment("narrow"))


def test_models_are_activated_and_rolled_back(page: Chrome, service: Client) -> None:
    find(page, 'nav [href="#admin"]').click()
    wait_for(page, "return document.querySelectorAll('#models tr').length === 2")
    press(page, f"Activate {TINY_VERSIONS[1]}")
    says = "return document.querySelector('#health').textContent === arguments[0]"
    wait_for(page, says, TINY_VERSIONS[1])
    assert service.send(ListModels()).current == TINY_VERSIONS[1]
    find(page, "#rollback").click()
    wait_for(page, says, TINY_VERSIONS[0])


def test_an_experiment_is_created_started_ramped_reported_and_stopped(
    page: Chrome, service: Client
) -> None:
    find(page, 'nav [href="#admin"]').click()
    wait_for(page, "return !document.querySelector('#experiment-box').hidden")
    find(page, "#experiment-box > summary").click()
    find(page, "[name=name]").send_keys("by-hand")
    find(page, "#arm-rows li:last-child [name=version]").send_keys(TINY_VERSIONS[1])
    find(page, "#experiment-form .primary").click()
    has_state = "return document.querySelector('.experiment .badge')?.textContent === arguments[0]"
    wait_for(page, has_state, "draft")
    assert TINY_VERSIONS[1] in find(page, ".shares").text
    press(page, "Start by-hand")
    wait_for(page, has_state, "running")
    arms = {service.send(RecommendVideos(user_id=f"u{n}")).model.arm for n in range(40)}
    assert arms == {"control", "treatment"}

    find(page, '[aria-label="Coverage of by-hand"]').send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    press(page, "Ramp by-hand")
    tells = "return document.querySelector('.experiment .note').textContent.includes(arguments[0])"
    wait_for(page, tells, ", 1 % of the users take part")
    assert service.send(ReadExperiment("by-hand")).coverage == 0.01
    press(page, "Report of by-hand")
    wait_for(page, "return document.querySelector('.verdict')")
    assert "treatment: Too early" in find(page, ".report").text
    press(page, "Stop by-hand")
    wait_for(page, has_state, "stopped")
    press(page, "Changes of by-hand")
    wait_for(page, "return document.querySelectorAll('.report tbody tr').length === 4")
    press(page, "Delete by-hand")
    wait_for(page, "return document.querySelectorAll('.experiment').length === 0")
    assert service.send(ListExperiments()).experiments == []


def test_two_versions_stand_side_by_side(page: Chrome, service: Client, stored_user: str) -> None:
    show_user(page, stored_user)
    expected = {}
    for version in TINY_VERSIONS[::-1]:
        service.send(ActivateModel(version))
        answer = service.send(RecommendVideos(user_id=stored_user, k=10))
        expected[version] = [item.video_id for item in answer.items]
    find(page, 'nav [href="#compare"]').click()
    wait_for(page, "return document.querySelectorAll('#left-choice option').length === 3")
    for side, version in zip(("left", "right"), TINY_VERSIONS, strict=True):
        Select(find(page, f"#{side}-choice")).select_by_value(f"version:{version}")
    find(page, "#compare-form .primary").click()
    wait_for(page, "return document.querySelector('#compare-note').textContent")
    for side, version in zip(("left", "right"), TINY_VERSIONS, strict=True):
        cards = page.find_elements(By.CSS_SELECTOR, f"#{side}-items > li")
        other = next(ids for name, ids in expected.items() if name != version)
        assert [card.get_dom_attribute("data-id") for card in cards] == expected[version]
        for card in cards:
            is_alone = card.get_dom_attribute("data-id") not in other
            assert ("differs" in str(card.get_dom_attribute("class"))) == is_alone
            assert ("only here" in card.text) == is_alone
    both = set.intersection(*map(set, expected.values()))
    assert find(page, "#compare-note").text.startswith(f"{len(both)} of 10 in both")
    assert 0 < len(both) < 10
    (held,) = service.send(ListExperiments()).experiments
    assert (held.name, held.status, held.coverage) == ("playground", "running", 0)
    assert service.send(RecommendVideos(user_id=stored_user)).model.arm is None
    find(page, 'nav [href="#recommend"]').click()
    wait_for(page, "return document.querySelector('#release').hidden")
    assert service.send(ListExperiments()).experiments == []


def test_closing_the_page_takes_its_arms_away(page: Chrome, url: str, service: Client) -> None:
    open_page(page, f"{url}/#compare")
    wait_for(page, "return document.querySelectorAll('#left-choice option').length === 3")
    Select(find(page, "#left-choice")).select_by_value(f"version:{TINY_VERSIONS[1]}")
    find(page, "#compare-form .primary").click()
    wait_for(page, "return document.querySelector('#compare-note').textContent")
    page.get("about:blank")
    end_s = time.monotonic() + 20
    while service.send(ReadExperiment("playground")).status == "running":
        assert time.monotonic() < end_s
        time.sleep(0.05)
    service.send(DeleteExperiment("playground"))


def test_a_key_is_asked_for_used_and_never_shown(
    chromium: Chrome, tiny_master: Path, tmp_path: Path
) -> None:
    problem = "return document.querySelector('#problem').textContent.startsWith(arguments[0])"
    keys = ("--admin-keys", "adm-1", "--recommend-keys", "rec-1")
    with running_service(tiny_master, tmp_path, *keys) as locked:
        open_page(chromium, f"{locked}/#admin")
        wait_for(chromium, problem, "401")
        find(chromium, "#key-box > summary").click()
        find(chromium, "#key").send_keys("rec-1", Keys.ENTER)
        wait_for(chromium, problem, "403: this needs a key of the role admin")
        find(chromium, "#key-box > summary").click()
        find(chromium, "#key").send_keys(Keys.CONTROL, "a")
        find(chromium, "#key").send_keys("adm-1", Keys.ENTER)
        wait_for(chromium, "return document.querySelectorAll('#models tr').length === 2")
        assert len(shown_videos(chromium)) == 10
        assert not find(chromium, "#problem").is_displayed()
        page = str(chromium.execute_script("return document.documentElement.outerHTML"))
        assert "$LSVCR_KEY" in page
        assert "adm-1" not in page and "rec-1" not in page
        assert chromium.execute_script("return document.cookie + localStorage.length") == "0"
        chromium.get("about:blank")


def test_a_name_never_becomes_markup(page: Chrome, url: str) -> None:
    show_user(page, "<img src=x onerror=alert(1)>")
    assert not page.find_elements(By.TAG_NAME, "img")


def test_no_other_script_runs_and_nothing_is_sent_elsewhere(chromium: Chrome, url: str) -> None:
    open_page(chromium, url)
    refused = chromium.execute_async_script("""
        const done = arguments[0], refused = [];
        document.addEventListener("securitypolicyviolation", (event) => {
          refused.push(event.effectiveDirective);
          if (refused.length === 3) done(refused.sort());
        });
        const script = document.createElement("script");
        script.textContent = "window.injected = true";
        document.body.append(script);
        const image = document.createElement("img");
        image.src = "http://127.0.0.1:9/x.png";
        document.body.append(image);
        fetch("http://127.0.0.1:9/").catch(() => {});
    """)
    assert refused == ["connect-src", "img-src", "script-src-elem"]
    assert chromium.execute_script("return window.injected") is None
    assert len(chromium.get_log("browser")) >= 3  # each refusal is told; the page itself tells none
