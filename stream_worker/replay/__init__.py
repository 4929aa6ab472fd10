"""Doing photos again, under a run of their own: with other weights, after a fault, to compare. `stream-worker replay`.

    from images:   images ------------> images, run NAME ---------------> the service --> completed-images, run NAME
    from objects:  detections, objects -> detections, objects, run NAME -> reconstructors --> completed-images, run NAME

The original events stay as they are. `selection.py` is what can be asked for; `plan.py` says which images these are and
which of them the replay has sent already: the topics themselves know, for there is the same image under its run;
`again.py` is what is written for one of them, and `send.py` does it, when the service has time (`../pace.py`).
A replay that was stopped goes on where it was: nothing is left out, and nothing is sent twice.
"""
