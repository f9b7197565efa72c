"""The annotation files of published data sets, read as they come, into the entries that `jepa pack` takes.

Every data set publishes its labels in a file of its own kind and its videos under names of its own kind, and every
laboratory turns both into lists of paths with a script that loses videos without saying so. Here a reader per family
turns (annotation files, folder of videos) into `jepa.data.lists.Entry`: a row of the annotations is an entry, and an
entry whose video is missing says so and is counted and listed by `jepa pack`. `jepa.data.known.formats` has the table.
"""
