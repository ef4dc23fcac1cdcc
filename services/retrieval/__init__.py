"""Finds the papers a survey is written from: looks search terms up in arXiv or the sample library, merges and filters.

It needs the extra `paperroute[retrieval]`; the sample library needs no network.
"""
