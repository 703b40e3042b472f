"""Load tests of a live server: perf_analyzer on traffic made from a real event log, and a report of what it found.

options -> event_log -> traffic -> input_data      what is sent
server, prefill                                    the server it is sent to
analyzer -> profile, statistics, sampling          one run and what it showed
figures -> report (plots, page), comparison        what is left of all runs
sweep                                              the order of it all
"""
