"""The public side: it takes questions, runs the pipeline over the five services, and hands out surveys.

It keeps no domain logic of its own: what a paper, a route or a section is, the services decide.
"""
