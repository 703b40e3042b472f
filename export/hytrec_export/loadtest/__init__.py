"""Load tests of a live server: perf_analyzer on traffic made from a real event log, and a report of its figures.

options -> event_log -> traffic -> plan -> input_data     what is sent
server, preparation, prefill                              the server it is sent to
perf_analyzer -> profile, statistics, sampling            one run and what it showed; measurement combines them
figures -> report (plots, tables, comparison)             what is kept of all runs
sweep                                                     the order of one load test; run adds the report
"""
