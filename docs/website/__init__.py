"""What builds the site: Sphinx reads the pages as they are in the repository.

* ``reading`` - pages of a code host, as MyST understands them;
* ``references`` - links to folders, and names of the API wherever they are defined;
* ``commands``, ``problems`` - pages that are made from parsers and from the sections of refusals.
"""
