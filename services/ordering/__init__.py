"""Ordering: vectors of papers in, a reading order cut into chapters and sections out.

The service keeps no state and needs nothing from outside: numpy for the geometry, fast-tsp for the route, python-tsp
(in a process of its own) for the published baseline.
"""
