"""The extractive engine: no key, no network, no model.

Every statement it makes about a paper is a sentence of that paper or a count of its words. It reads English abstracts
and writes its own phrases in English or Japanese; the same request always gives the same text.
"""
