"""What goes into pages and their headers.

* ``links`` - ``Link`` headers that advertise a hub;
* ``page`` - what templates put into a page;
* ``static`` - the JavaScript module.
"""
