"""Event logs as people have them: found files -> sniffed columns -> DuckDB -> keys, times and a report.

files     which files a path, folder or pattern stands for, and their format by content
remote    those of other file systems, copied to disk
dialect   separator, header and quotes of text files, from their beginning
columns   which column is the user, the item, the time and the behavior
times     what the numbers or texts of a time column mean
key_columns   keys of a column as codes
engine    the DuckDB connection: memory limit, spilling, errors
reader    all of it in order: `read_log`, `sorted_log`
sorted_log    a log that need not fit into memory, in pages of users
report    what was read, as values and as lines
"""
