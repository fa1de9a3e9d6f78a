"""Tables that people read, made of the files that single steps wrote.

:func:`~nmfbench.tables.collect.collect_dataset` writes all of them for one dataset; the
modules below it hold the single tables as functions of data frames. Importing this package
loads nothing; pandas comes with the first call.
"""
