"""Load tests of a live server: perf_analyzer on traffic made from a real event log, and a report of what it found.

options -> event_log -> traffic -> input_data      what is sent
server, preparation, prefill                       the server it is sent to
analyzer -> profile, statistics, sampling          one run and what it showed; windows are such runs
figures -> report (plots, page), comparison        what is left of all runs
sweep                                              the order of it all

lengths (contenders, history_traffic, at_length, peer_figures) stands in a sweep's place where the server is compared
with others by length of history.
"""
