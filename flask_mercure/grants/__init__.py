"""Who may read: tokens and cookies for the users of an application.

* ``access`` - tokens and the cookie, given by a view;
* ``grant`` - what the current user may read, as the application tells it;
* ``mark`` - by what a grant is recognised later;
* ``unread`` - a hint where nobody may read;
* ``renewal`` - the cookie that follows the user.
"""
