"""The frame: title, introduction, chapter heads and closing, made of counts, dates and terms alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from services.generation.extractive.aspects import ASPECTS
from services.generation.extractive.latex import readable
from services.generation.extractive.likeness import most_central, vectors_of
from services.generation.extractive.markup import safe
from services.generation.extractive.naming import Namer, asked_words, headed
from services.generation.extractive.phrases import chosen, phrases_of
from services.generation.extractive.terms import Key, Term, Text, cased, is_new, overlap, shown_words, terms_of
from services.generation.tasks import FramePart, FramePartKind, FrameTask, KeyedPaper

_FEWEST_WITH_CENTRE = 3
_MAX_CATEGORIES = 3
_MAX_COMMON = 3
_MAX_RECENT = 4
_MAX_ASPECTS = 3
_RARE_SHARE = 0.15  # of the papers: up to here an aspect is mentioned by few


def parts_of(task: FrameTask) -> Iterator[FramePart]:
    """Yield the parts of the frame: title, introduction, each chapter's title and text, closing."""
    writer = _Writer(task)
    yield FramePart(kind=FramePartKind.TITLE, text=writer.title())
    yield FramePart(kind=FramePartKind.INTRODUCTION, text=writer.introduction())
    for number in range(len(task.outline)):
        title, text = writer.chapter_title(number), writer.chapter_text(number)
        yield FramePart(kind=FramePartKind.CHAPTER_TITLE, chapter_number=number + 1, text=title)
        yield FramePart(kind=FramePartKind.CHAPTER_TEXT, chapter_number=number + 1, text=text)
    yield FramePart(kind=FramePartKind.CLOSING, text=writer.closing())


class _Writer:
    def __init__(self, task: FrameTask) -> None:
        self._task = task
        self._phrases = phrases_of(task.language)
        self._papers = {each.key: each for each in task.papers}
        self._texts = {each.place: Text.of(each.paper.title, each.paper.abstract) for each in task.papers}
        places = max(int(key[1:]) for chapter in task.outline for section in chapter for key in section.keys)
        titles = [""] * max(places, *(each.place + 1 for each in task.papers))
        for each in task.papers:
            titles[each.place] = each.paper.title
        self._namer = Namer(task.question, task.outline, titles, self._texts)
        self._chapters = [self._namer.chapter_terms(number) for number in range(len(task.outline))]

    def title(self) -> str:
        """Return the title: what was searched for, when, how much."""
        phrases = self._phrases
        values = {"years": self._years(), "papers": phrases.paper_count(len(self._papers))}
        if not self._task.search_terms:
            return phrases.say(phrases.title_without_topic, **values)
        topic = readable(self._task.search_terms[0])
        title = phrases.say(phrases.title, topic=topic, **values)
        is_spelled = topic.split(" ")[0] != topic.split(" ")[0].lower()
        return topic[:1] + title[1:] if is_spelled else title

    def introduction(self) -> str:
        """Return what the survey covers, and its chapters."""
        phrases = self._phrases
        papers = phrases.paper_count(len(self._papers))
        scope = [phrases.say(phrases.introduction_scope, papers=papers, span=phrases.span_of(self._moments()))]
        years = Counter(moment.year for moment in self._moments())
        if len(years) > 1:
            counts = [phrases.year_count.format(year=year, count=count) for year, count in sorted(years.items())]
            scope.append(phrases.say(phrases.introduction_years, years=phrases.joined(counts)))
        terms = [phrases.quoted_term.format(term=safe(term)) for term in self._task.search_terms]
        if terms:
            template = phrases.introduction_term if len(terms) == 1 else phrases.introduction_terms
            scope.append(phrases.say(template, terms=phrases.joined(terms)))
        scope += self._categories()
        return f"{_running(scope, phrases.language)}\n\n{self._overview()}"

    def chapter_title(self, number: int) -> str:
        """Return the chapter's title: the terms that set it apart from the other chapters."""
        return headed(self._phrases.chapter_title, self._phrases, self._chapters[number])

    def chapter_text(self, number: int) -> str:
        """Return what the chapter's sections are about, and its most central paper."""
        phrases, chapter = self._phrases, self._task.outline[number]
        papers = [self._papers[key] for section in chapter for key in section.keys if key in self._papers]
        if not papers:
            return phrases.chapter_without_papers
        first = sum(len(each) for each in self._task.outline[:number])
        counts = {place: sum(key in self._papers for key in section.keys) for place, section in enumerate(chapter)}
        names = {place: self._section_name(first + place) for place, count in counts.items() if count}
        items = [
            phrases.section_item.format(terms=name, papers=phrases.paper_count(counts[place]))
            for place, name in names.items()
        ]
        turn = self._task.sample_seed + number
        is_one = len(names) == 1
        sentences = [
            phrases.say(
                chosen(phrases.chapter_one_section if is_one else phrases.chapter_sections, turn),
                papers=phrases.paper_count(len(papers)),
                sections=phrases.counted(len(items), phrases.one_section, phrases.sections),
                items="".join(names.values()) if is_one else phrases.semicolon.join(items),
            )
        ]
        if len(papers) >= _FEWEST_WITH_CENTRE:
            central = papers[most_central(vectors_of([self._texts[each.place].plain for each in papers]))]
            sentences.append(phrases.say(chosen(phrases.chapter_centre, turn), key=f"[{central.key}]"))
        return _running(sentences, phrases.language)

    def closing(self) -> str:
        """Return where the chapters lead, what is named most and least, and the newest papers."""
        phrases = self._phrases
        sentences = []
        named = [terms for terms in self._chapters if terms]
        if len(named) > 1:
            first, last = (safe(phrases.joined(terms[:2])) for terms in (named[0], named[-1]))
            sentences.append(phrases.say(phrases.closing_path, first=first, last=last))
        common = self._common()
        if common:
            sentences.append(phrases.say(phrases.closing_common, terms=phrases.joined(common)))
        sentences.append(self._recent())
        return _running(sentences, phrases.language) + self._gaps()

    def _section_name(self, number: int) -> str:
        """Return what a section is about: the title it was given, else the terms it names itself by."""
        phrases = self._phrases
        title = [section for chapter in self._task.outline for section in chapter][number].title
        if title:
            return phrases.quoted_term.format(term=safe(title))
        return safe(phrases.joined(self._namer.section_terms(number) or [phrases.untitled]))

    def _overview(self) -> str:
        phrases = self._phrases
        items = []
        for number, chapter in enumerate(self._task.outline, start=1):
            count = sum(key in self._papers for section in chapter for key in section.keys)
            terms = self._chapters[number - 1] or [phrases.untitled]
            papers = phrases.paper_count(count)
            item = phrases.chapter_item.format(number=number, terms=safe(phrases.joined(terms)), papers=papers)
            items.append(item)
        chapters = phrases.counted(len(items), phrases.one_chapter, phrases.chapters)
        return phrases.say(phrases.introduction_chapters, chapters=chapters, items=phrases.semicolon.join(items))

    def _categories(self) -> list[str]:
        phrases = self._phrases
        counts = Counter(each.paper.primary_category for each in self._papers.values() if each.paper.primary_category)
        if not counts:
            return []
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_CATEGORIES]
        if ranked[0][1] == len(self._papers):
            return [phrases.say(phrases.introduction_category, category=safe(ranked[0][0]))]
        names = [phrases.term_count.format(term=safe(name), count=str(count)) for name, count in ranked]
        return [phrases.say(phrases.introduction_categories, categories=phrases.joined(names))]

    def _common(self) -> list[str]:
        """Return the terms that most papers mention, with their counts; they share no word."""
        asked = asked_words(" ".join([self._task.question, *self._task.search_terms]))
        terms: dict[Key, Term] = {}
        for each in self._papers.values():
            for key, term in terms_of(each.paper.title).items():
                if not term.is_coined and is_new(key, asked):
                    terms.setdefault(key, term)
        spread = Counter(key for key in terms for text in self._texts.values() if text.mentions(key))
        named: list[Key] = []
        for key in sorted(terms, key=lambda key: (-spread[key], -len(key), key)):
            if spread[key] > 1 and len(named) < _MAX_COMMON and not any(overlap(key, other) for other in named):
                named.append(key)
        phrases = self._phrases
        return [
            phrases.term_count.format(
                term=safe(cased(shown_words(terms[key].words), self._texts.values())),
                count=str(spread[key]),
            )
            for key in named
        ]

    def _recent(self) -> str:
        phrases = self._phrases
        newest = max(self._moments())
        month = [each for each in self._papers.values() if _month(each) == (newest.year, newest.month)]
        latest = sorted(month, key=lambda each: each.paper.published_at, reverse=True)[:_MAX_RECENT]
        keys = f"[{', '.join(each.key for each in latest)}]"
        return phrases.say(phrases.closing_recent, month=phrases.month_of(newest), keys=keys)

    def _gaps(self) -> str:
        """Return which aspects few abstracts mention, as a paragraph; empty where every aspect is common."""
        phrases = self._phrases
        abstracts = [each.paper.abstract for each in self._papers.values()]
        counts = [sum(pattern.search(text) is not None for text in abstracts) for pattern in ASPECTS]
        few = sorted(
            (count, place) for place, count in enumerate(counts) if 0 < count <= max(1, _RARE_SHARE * len(abstracts))
        )
        sentences = []
        if few:
            named = [
                phrases.term_count.format(term=phrases.aspects[place], count=str(count))
                for count, place in few[:_MAX_ASPECTS]
            ]
            sentences.append(phrases.say(phrases.closing_rare, aspects=phrases.joined(named)))
        absent = [phrases.aspects[place] for place, count in enumerate(counts) if not count][:_MAX_ASPECTS]
        if absent:
            sentences.append(phrases.say(phrases.closing_absent, aspects=phrases.joined(absent)))
        return f"\n\n{_running(sentences, phrases.language)}" if sentences else ""

    def _moments(self) -> list[datetime]:
        return [each.paper.published_at for each in self._papers.values()]

    def _years(self) -> str:
        years = {moment.year for moment in self._moments()}
        return str(min(years)) if len(years) == 1 else f"{min(years)}–{max(years)}"


def _month(keyed: KeyedPaper) -> tuple[int, int]:
    return keyed.paper.published_at.year, keyed.paper.published_at.month


def _running(sentences: Sequence[str], language: str) -> str:
    return ("" if language == "ja" else " ").join(sentences)
