"""The text format: what Prometheus' own reader would make of it."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from paintkit.monitor.exposition import Family, Sample, render


def test_labels_and_help_survive_a_round_trip():
    """Quotes, backslashes and line ends are escaped as the reader expects."""
    hostile = 'a "quoted" \\ back\nslash {x="y"} 1'
    text = render(
        [Family("odd_total", "counter", "Help with \\ and\nlines.", (Sample({"name": hostile}, 3),))]
    )
    (family,) = text_string_to_metric_families(text)
    assert ("odd", "counter", "Help with \\ and\nlines.") == (family.name, family.type, family.documentation)
    assert [({"name": hostile}, 3.0)] == [(sample.labels, sample.value) for sample in family.samples]


def test_families_of_one_name_are_written_once():
    """Two caches are two samples of one family."""
    families = [Family("hits_total", "counter", "Hits.", (Sample({"cache": name}, 1),)) for name in "ab"]
    assert ["a", "b"] == [
        sample.labels["cache"]
        for family in text_string_to_metric_families(render(families))
        for sample in family.samples
    ]
    assert 1 == render(families).count("# TYPE")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (True, "1"), (0.5, "0.5"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")],
)
def test_numbers_are_written_as_the_format_wants(value, text):
    """Special values have their own spelling."""
    assert f"x {text}" == render([Family("x", "gauge", "X.", (Sample({}, value),))]).splitlines()[-1]


def test_a_family_without_numbers_is_left_out():
    """No empty head."""
    assert "" == render([Family("x", "gauge", "X.", ())])


@pytest.mark.parametrize("name", ["", "1x", "a-b", "a b", "ä"])
def test_a_name_that_the_format_forbids_is_refused(name):
    """Of a metric and of a label."""
    with pytest.raises(ValueError, match="name"):
        render([Family(name, "gauge", "X.", (Sample({}, 1),))])
    with pytest.raises(ValueError, match="name"):
        render([Family("x", "gauge", "X.", (Sample({name: "1"}, 1),))])
