"""Chapters and sections: exact, and within their limits."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ordering import cuts
from services.ordering.cuts import Limits, cut
from services.ordering.distances import similarities, unit_rows


def drawn(seed: int, count: int, dimension: int = 6) -> np.ndarray:
    """Return unit rows along a wandering path, so that neighbours are alike."""
    rng = np.random.default_rng(seed)
    return unit_rows((rng.normal(size=(count, dimension)).cumsum(axis=0) + 3).astype(np.float32))


def topics(sizes: list[int], noise: float = 0.15) -> np.ndarray:
    """Return unit rows, topic after topic."""
    rng = np.random.default_rng(1)
    vectors = np.repeat(np.eye(len(sizes), 20), sizes, axis=0) + noise * rng.normal(size=(sum(sizes), 20))
    return unit_rows(vectors.astype(np.float32))


def cost(units: np.ndarray) -> float:
    """The sum of squared distances to the mean, by the vectors themselves."""
    exact = units.astype(np.float64)
    return float(((exact - exact.mean(axis=0)) ** 2).sum())


def total(units: np.ndarray, ends: list[int]) -> float:
    return sum(cost(units[a:b]) for a, b in pairwise(ends))


def every_cut(count: int, parts: int) -> list[list[int]]:
    return [[0, *inner, count] for inner in combinations(range(1, count), parts - 1)]


def ends_of(chapters: cuts.Chapters) -> tuple[list[int], list[int]]:
    """Return where chapters and where sections end, both with the 0 before the first."""
    sections = [section for chapter in chapters for section in chapter]
    return [0, *(chapter[-1].stop for chapter in chapters)], [0, *(section.stop for section in sections)]


def cut_in_order(units: np.ndarray, **limits: int) -> tuple[list[int], list[int]]:
    wanted = Limits(**{"max_section_papers": 8, **limits})
    return ends_of(cut(similarities(units), np.arange(len(units)), wanted))


def test_a_stretch_costs_its_squared_distances_to_the_mean():
    """Also for a route in another order than the papers, and for places that lie apart."""
    units = drawn(0, 30)
    path = np.random.default_rng(1).permutation(30)
    places = np.array([0, 1, 4, 9, 10, 22, 30])

    costs = cuts.stretch_costs(similarities(units), path, places)

    for a, b in combinations(range(7), 2):
        assert costs[a, b] == pytest.approx(cost(units[path[places[a] : places[b]]]), abs=1e-5)
    assert np.isinf(costs[np.tril_indices(7)]).all()


def test_stretch_costs_do_not_depend_on_the_block(monkeypatch):
    alike, path, places = similarities(drawn(2, 20)), np.arange(20), np.array([0, 2, 3, 7, 12, 13, 20])
    whole = cuts.stretch_costs(alike, path, places)

    monkeypatch.setattr(cuts, "_BLOCK", 2)

    assert cuts.stretch_costs(alike, path, places)[0, 1:] == pytest.approx(whole[0, 1:])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("parts", [1, 2, 3, 5, 9, 10])
def test_cheapest_ends_are_the_cheapest_of_all(seed, parts):
    units = drawn(seed, 10)
    costs = cuts.stretch_costs(similarities(units), np.arange(10), np.arange(11))

    (found,) = cuts.cheapest_ends(costs, parts, parts)

    assert found[0] == 0
    assert found[-1] == 10
    assert len(found) == parts + 1
    assert total(units, found) == pytest.approx(min(total(units, ends) for ends in every_cut(10, parts)), abs=1e-5)


def test_cheapest_ends_of_several_counts_are_those_of_each():
    costs = cuts.stretch_costs(similarities(drawn(3, 14)), np.arange(14), np.arange(15))

    together = cuts.cheapest_ends(costs, 2, 7)

    assert together == [cuts.cheapest_ends(costs, count, count)[0] for count in range(2, 8)]


@pytest.mark.parametrize("chapter_ends", [[0, 12], [0, 5, 12], [0, 1, 2, 12]], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_sections_are_the_cheapest_of_all(seed, chapter_ends):
    """Both searches, for each count and for a price, against every way to cut that keeps the limits."""
    units, longest, price = drawn(seed, 12), 4, 0.05
    costs = cuts.section_costs(similarities(units), np.arange(12), np.array(chapter_ends), longest)
    allowed = {
        count: [
            ends
            for ends in every_cut(12, count)
            if set(chapter_ends) <= set(ends) and max(b - a for a, b in pairwise(ends)) <= longest
        ]
        for count in range(1, 13)
    }

    for count, options in allowed.items():
        if options:
            found = cuts.counted_sections(costs, count)
            assert found in options
            assert total(units, found) == pytest.approx(min(total(units, ends) for ends in options), abs=1e-5)
    found = cuts.priced_sections(costs, price)
    best = min(total(units, ends) + price * count for count, options in allowed.items() for ends in options)
    assert total(units, found) + price * (len(found) - 1) == pytest.approx(best, abs=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 70),
    longest=st.integers(1, 50),
    chapters=st.integers(0, 70),
    sections=st.integers(0, 70),
)
def test_chapters_and_sections_partition_the_route_within_the_limits(seed, count, longest, chapters, sections):
    """For every request that the rules of the fields let through."""
    chapters = min(chapters, count)
    if sections:
        sections = min(max(sections, chapters, -(-count // longest)), count)
    limits = Limits(max_section_papers=longest, chapter_count=chapters, section_count=sections)
    path = np.random.default_rng(seed).permutation(count)

    found = cut(similarities(drawn(seed, count)), path, limits)

    flat = [section for chapter in found for section in chapter]
    assert all(found)
    assert [position for section in flat for position in section] == list(range(count))
    assert all(1 <= len(section) <= longest for section in flat)
    if chapters:
        assert len(found) == chapters
    elif count <= 12:
        assert len(found) == 1
    else:
        assert min(3, sections or 3) <= len(found) <= 8
    if sections:
        assert len(flat) == sections


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), count=st.integers(9, 120), longest=st.integers(5, 12))
def test_no_chapter_or_section_is_below_three_papers_where_the_data_choose(seed, count, longest):
    """With five places in a section any chapter of three or more can be cut into parts of three to five."""
    chapter_ends, section_ends = cut_in_order(drawn(seed, count), max_section_papers=longest)

    assert min(np.diff(chapter_ends)) >= 3
    assert min(np.diff(section_ends)) >= 3


@pytest.mark.parametrize(("count", "chapters"), [(9, 3), (25, 8), (24, 8)])
def test_given_chapters_have_three_papers_where_the_number_allows_it(count, chapters):
    chapter_ends, _ = cut_in_order(drawn(count, count), chapter_count=chapters)

    assert min(np.diff(chapter_ends)) >= 3


def test_given_counts_that_force_short_parts_leave_no_more_of_them_than_needed():
    """Ten papers in four sections: three of three papers, and one."""
    _, section_ends = cut_in_order(drawn(5, 10), section_count=4, chapter_count=1)

    assert sorted(np.diff(section_ends).tolist()) in ([1, 3, 3, 3], [2, 2, 3, 3])


@pytest.mark.parametrize("sizes", [[10, 12, 9], [20, 6, 14, 10], [9, 8, 11, 14, 7], [12, 9, 8, 16, 10, 9]], ids=str)
def test_as_many_chapters_as_there_are_topics(sizes):
    chapter_ends, _ = cut_in_order(topics(sizes))

    assert np.diff(chapter_ends).tolist() == sizes


def test_topics_within_wider_topics_are_told_apart():
    """The cost falls most at three chapters, but goes on falling until six."""
    wide, narrow = np.repeat(np.eye(3, 20), 20, axis=0), np.repeat(np.eye(20)[5:11], 10, axis=0)
    noise = 0.05 * np.random.default_rng(2).normal(size=(60, 20))

    chapter_ends, _ = cut_in_order(unit_rows((wide + 0.6 * narrow + noise).astype(np.float32)))

    assert np.diff(chapter_ends).tolist() == [10] * 6


def test_a_chapter_of_more_than_half_of_the_papers_is_divided():
    """Three topics, but one is nearly everything: a reader is helped by parts of it."""
    units = topics([60, 8, 8], noise=0.3)

    chapter_ends, _ = cut_in_order(units)

    assert max(np.diff(chapter_ends)) <= 38


def test_sections_end_where_the_topic_does():
    """Seven papers of one topic and five of another, in one chapter: not eight and four."""
    _, section_ends = cut_in_order(topics([7, 5]), chapter_count=1)

    assert section_ends == [0, 7, 12]


def test_a_weak_border_is_worth_a_section():
    """Two groups of four whose papers have half of their direction in common, the rest their own."""
    own, common = np.eye(10)[2:], np.repeat(np.eye(10)[:2], 4, axis=0)

    _, section_ends = cut_in_order(unit_rows((own + common).astype(np.float32)), chapter_count=1)

    assert section_ends == [0, 4, 8]


def test_papers_without_structure_are_not_split_below_the_limit():
    units = unit_rows(np.random.default_rng(2).normal(size=(64, 4_000)).astype(np.float32))

    _, section_ends = cut_in_order(units, chapter_count=1)

    assert len(section_ends) - 1 == 8


def test_few_sections_are_obeyed_where_the_chapters_would_need_more():
    """Topics of 9 and 7 need three sections of at most 8; two are asked for, so the chapters give way."""
    chapter_ends, section_ends = cut_in_order(topics([9, 7]), chapter_count=2, section_count=2)

    assert section_ends == [0, 8, 16]
    assert chapter_ends == [0, 8, 16]


@pytest.mark.parametrize(
    "limits", [{}, {"chapter_count": 5}, {"section_count": 9}, {"max_section_papers": 50}], ids=str
)
def test_equal_papers_are_cut_too(limits):
    chapter_ends, section_ends = cut_in_order(np.tile(np.float32([0.6, 0.8]), (40, 1)), **limits)

    assert chapter_ends[-1] == section_ends[-1] == 40
    assert max(np.diff(section_ends)) <= limits.get("max_section_papers", 8)


@pytest.mark.parametrize("chapters", [0, 7, 25])
def test_long_routes_are_cut_between_places_that_lie_apart(monkeypatch, chapters):
    monkeypatch.setattr(cuts, "MOST_PLACES", 20)

    chapter_ends, section_ends = cut_in_order(drawn(4, 75), chapter_count=chapters)

    assert chapter_ends[-1] == section_ends[-1] == 75
    assert set(chapter_ends) <= set(section_ends)
    assert chapters in (0, len(chapter_ends) - 1)
