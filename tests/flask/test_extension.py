"""The extension: what it adds to an app, who may see it, and what it refuses."""

import contextvars

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from paintkit import (
    BulkheadFullError,
    CacheManager,
    ComponentManager,
    ErrorRecoveryManager,
    EventBus,
    PerformanceMonitor,
    RequestBatcher,
    ambient,
    bulkhead,
)
from paintkit.flask import PaintKit
from paintkit.sqlalchemy import DatabaseConnectionManager


def scraped(response):
    """The numbers of a scrape, by metric and labels; each may come once only."""
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def public(app):
    app.config["PAINTKIT_METRICS_PUBLIC"] = True
    return app


def test_the_extension_is_kept_where_flask_keeps_extensions(app):
    """One for each app; the arguments are optional."""
    kit = PaintKit(app)
    assert kit is app.extensions["paintkit"]
    with pytest.raises(ValueError, match="already"):
        PaintKit(app)
    other = Flask("other")
    kit.init_app(other)
    assert kit is other.extensions["paintkit"]


def test_being_alive_takes_no_question(app):
    """`/health/live` answers whatever is broken."""

    def fail():
        raise AssertionError("never asked")

    PaintKit(app, checks={"store": fail})
    response = app.test_client().get("/health/live")
    assert (200, {"status": "ok"}, "no-store") == (
        response.status_code,
        response.json,
        response.headers["Cache-Control"],
    )


def test_the_paths_may_begin_with_a_prefix(app):
    """All of them."""
    PaintKit(public(app), url_prefix="/internal")
    client = app.test_client()
    assert [200, 200, 200] == [
        client.get(f"/internal{path}").status_code for path in ("/health/live", "/health/ready", "/metrics")
    ]
    assert 404 == client.get("/health/live").status_code


def test_the_database_becomes_the_apps_own(app, db):
    """Its read session works in a request."""
    PaintKit(app, db=db)

    @app.get("/one")
    def one():
        return str(db.session.scalar(text("select 1")))

    assert "1" == app.test_client().get("/one").text


def test_a_manager_made_from_the_app_is_welcome():
    """The guide's way: the manager takes its settings from the app."""
    app = Flask("studio")
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", PAINTKIT_READY_TIMEOUT=60.0)
    db = DatabaseConnectionManager(app)
    PaintKit(app, db=db)
    assert {"db": "ok"} == app.test_client().get("/health/ready").json["databases"]
    db.close()


def test_metrics_hold_the_totals_of_everything(app, db):
    """What the primitives did can be read from one page."""
    cache, recovery, bus = CacheManager("paints"), ErrorRecoveryManager(), EventBus("studio")
    batcher = RequestBatcher(list, delay=0, name="swatches")
    components, monitor = ComponentManager(), PerformanceMonitor()
    PaintKit(
        public(app),
        db=db,
        cache=cache,
        recovery=recovery,
        bus=bus,
        batcher=batcher,
        components=components,
        monitor=monitor,
    )

    @cache.cache_result()
    def double(number):
        return number * 2

    @recovery.with_retry(1, 0, (OSError,), name="calls")
    @recovery.circuit_breaker(2, name="supplier")
    def fail():
        raise OSError

    renderer = recovery.add(bulkhead(1, name="renderer"))
    with renderer.hold(), pytest.raises(BulkheadFullError):
        renderer.call(print)
    double(1)
    double(1)
    with pytest.raises(OSError):
        fail()
    bus.publish("paint.created")
    batcher.add(1)
    components.register("store", dict)
    components.get("store")
    monitor.measure("mix", lambda: None)
    found = scraped(app.test_client().get("/metrics"))
    supplier, renderer = (("policy", "supplier"),), (("policy", "renderer"),)
    pool = ("db_client_connection_pool_name", "studio.db")
    expected = {
        ("paintkit_cache_hits_total", (("cache", "paints"), ("level", "memory"))): 1,
        ("paintkit_cache_misses_total", (("cache", "paints"), ("cause", "never"))): 1,
        ("paintkit_retry_retries_total", (("policy", "calls"),)): 1,
        ("paintkit_circuit_breaker_opened_total", supplier): 1,
        ("paintkit_circuit_breaker_state", (*supplier, ("state", "open"))): 1,
        ("paintkit_circuit_breaker_state", (*supplier, ("state", "closed"))): 0,
        ("paintkit_bulkhead_rejected_total", renderer): 1,
        ("paintkit_bulkhead_running", renderer): 0,
        ("paintkit_event_bus_published_total", (("bus", "studio"),)): 1,
        ("paintkit_batcher_requests_total", (("batcher", "swatches"),)): 1,
        ("paintkit_components_builds_total", (("components", "components"),)): 1,
        ("paintkit_duration_seconds_count", (("name", "mix"),)): 1,
        ("db_client_connection_count", (pool, ("db_client_connection_state", "used"))): 0,
    }
    assert expected == {key: found.get(key) for key in expected}


def test_several_of_a_kind_are_told_apart(app):
    """By their names, made distinct where they are equal; for exporters those of one name are added up."""
    caches = [CacheManager("paints"), CacheManager("paints"), CacheManager("brands")]
    monitors = [PerformanceMonitor(), PerformanceMonitor()]
    for monitor in monitors:
        monitor.record("mix", 1.0)
    kit = PaintKit(
        public(app), cache=caches, monitor=monitors, recovery=[ErrorRecoveryManager(), ErrorRecoveryManager()]
    )
    assert ["paints", "paints 2", "brands"] == list(kit.get_stats()["caches"])
    for one in caches:
        one.cache_result()(abs)(-1)
    found = scraped(app.test_client().get("/metrics"))
    assert 2 == found["paintkit_duration_seconds_count", (("name", "mix"),)]
    assert 2 == found["paintkit_cache_loads_total", (("cache", "paints"),)]
    assert 1 == found["paintkit_cache_loads_total", (("cache", "brands"),)]


def test_further_sources_are_shown_too(app):
    """A policy outside of every registry."""
    PaintKit(public(app), telemetry=[bulkhead(3, name="printer")])
    assert (
        3 == scraped(app.test_client().get("/metrics"))["paintkit_bulkhead_limit", (("policy", "printer"),)]
    )


def test_one_further_source_needs_no_list(app):
    """As with every other argument."""
    PaintKit(public(app), telemetry=bulkhead(3, name="printer"))
    assert 'paintkit_bulkhead_limit{policy="printer"} 3' in app.test_client().get("/metrics").text


def test_what_is_no_source_is_refused(app):
    """When the extension is made, by name of its type."""
    with pytest.raises(TypeError, match=r"telemetry\(\).* str"):
        PaintKit(app, telemetry=["printer"])


def test_metrics_are_closed_unless_opened(app):
    """Without a token they are not there, except for a developer."""
    PaintKit(app)
    client = app.test_client()
    assert 404 == client.get("/metrics").status_code
    app.debug = True
    assert 200 == client.get("/metrics").status_code


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer ", 401),
        ("Basic czNjcmV0OnMzY3JldA==", 401),
        ("s3cret", 401),
        ("Bearer s3crét", 401),
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
    ],
)
def test_a_token_opens_the_metrics(app, header, status):
    """The right one, sent as a bearer token, and nothing else."""
    app.config["PAINTKIT_METRICS_TOKEN"] = "s3cret"
    app.debug = True
    PaintKit(app, cache=CacheManager("paints"))
    response = app.test_client().get("/metrics", headers={"Authorization": header} if header else {})
    assert status == response.status_code
    assert (status == 200) == ("paintkit_cache_entries" in response.text)
    assert (status == 401) == ("WWW-Authenticate" in response.headers)


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"cache": 7}, TypeError, "cache"),
        ({"cache": "paints"}, TypeError, "cache"),
        ({"bus": [EventBus(), None]}, TypeError, "bus"),
        ({"db": CacheManager("paints")}, TypeError, "db"),
        ({"monitor": CacheManager("paints")}, TypeError, "monitor"),
        ({"checks": {"": print}}, ValueError, "checks"),
        ({"checks": {"store": 1}}, TypeError, "store"),
        ({"checks": [print]}, TypeError, "checks must be functions by name"),
        ({"url_prefix": "internal"}, ValueError, "url_prefix"),
        ({"url_prefix": "/internal/"}, ValueError, "url_prefix"),
        ({"url_prefix": None}, TypeError, "url_prefix"),
    ],
)
def test_senseless_arguments_are_refused(options, kind, named):
    """The error names the argument."""
    with pytest.raises(kind, match=named):
        PaintKit(**options)


def test_only_an_app_can_be_extended():
    """Not its name, say."""
    with pytest.raises(TypeError, match="Flask"):
        PaintKit("studio")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("PAINTKIT_METRICS_TOKEN", "", ValueError),
        ("PAINTKIT_METRICS_TOKEN", "tökén", ValueError),
        ("PAINTKIT_METRICS_TOKEN", 7, TypeError),
        ("PAINTKIT_METRICS_PUBLIC", "no", TypeError),
        ("PAINTKIT_READY_TIMEOUT", 0, ValueError),
        ("PAINTKIT_READY_TIMEOUT", "1", TypeError),
    ],
)
def test_a_senseless_configuration_is_refused_at_start(app, name, value, kind):
    """Not at the first request."""
    app.config[name] = value
    with pytest.raises(kind, match=name):
        PaintKit(app)


@pytest.mark.parametrize("remember", [True, False])
def test_a_request_reads_a_cached_value_once(app, remember):
    """Each request has a memo, which ends with it, however that is; the app can do without."""
    app.config["PAINTKIT_CACHE_MEMO"] = remember
    cache = CacheManager()
    PaintKit(app, cache=cache)
    prices = {"red": 350}
    price = cache.cache_result()(lambda sku: prices[sku])

    @app.get("/prices")
    def read():
        first = price("red")
        prices["red"] += 1
        contextvars.Context().run(price.invalidate, "red")
        return [first, price("red")]

    @app.get("/broken")
    def fail():
        price("red")
        raise ValueError("view")

    client = app.test_client()
    later = 0 if remember else 1
    assert [350, 350 + later] == client.get("/prices").json
    assert 500 == client.get("/broken").status_code
    assert [351, 351 + later] == client.get("/prices").json
    assert 0 == ambient.process.detours
    assert 352 == price("red")


def test_the_choice_of_memos_is_a_flag(app):
    """Anything but True and False is a mistake."""
    app.config["PAINTKIT_CACHE_MEMO"] = "no"
    with pytest.raises(TypeError, match="PAINTKIT_CACHE_MEMO"):
        PaintKit(app)
