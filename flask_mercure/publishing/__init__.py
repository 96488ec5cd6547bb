"""Publishing, from a view to the request.

* ``pipeline`` - the single path of every publication; the failure policy chooses its route;
* ``background`` - the route through a queue and a thread, in each process until its end;
* ``retry`` - what a failure says of the update and of its hub, and when to try again;
* ``recorder`` - takes the hub's place in tests;
* ``events`` - what is told of each publication: signals, log lines, spans;
* ``stream`` - text that is published while it is made;
* ``progress`` - how far a job is.
"""
