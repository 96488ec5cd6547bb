"""Orders in Django: each change is published when it is committed, and only the order's owner can read it.

Settings, model, signal, views and page in one file; a project has them in the usual ones.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

from flask_mercure import STATIC_FOLDER, HubClient, build_topic

# One client for the whole process: it keeps its connections, and can be used in all threads.
hub = HubClient(
    os.environ.get("HUB_URL", "http://localhost:3000/.well-known/mercure"), os.environ["HUB_SECRET"]
)

DATA = Path(os.environ.get("ORDERS_DATA", Path(__file__).with_name("instance")))
settings.configure(
    DEBUG=True,
    SECRET_KEY=os.environ["HUB_SECRET"] + " for Django",
    ALLOWED_HOSTS=["localhost"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA / "orders.db"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    STATIC_URL="/static/",
    STATICFILES_DIRS=[("mercure", STATIC_FOLDER)],  # the JavaScript module: {% static "mercure/mercure.js" %}
    LOGIN_URL="/",
)
django.setup()

# Django's models can be imported from here on.
from django.contrib.auth import get_user_model, login, logout  # noqa: E402
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.db import connection, models, transaction  # noqa: E402
from django.db.models.signals import post_save  # noqa: E402
from django.dispatch import receiver  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.shortcuts import get_object_or_404, redirect  # noqa: E402
from django.template import engines  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.cache import cache_control  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from django.views.decorators.http import require_POST  # noqa: E402


class Order(models.Model):
    """Something that a user has ordered."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="orders")
    title = models.CharField(max_length=80)
    state = models.CharField(max_length=20, default="new")

    class Meta:
        app_label = "orders"


def orders_of(user: Any) -> str:
    """The topic of a user's orders."""
    return build_topic("users/{}/orders", user.pk)


@receiver(post_save, sender=Order)
def tell(instance: Order, **_: Any) -> None:
    """Publish what was saved, once it is committed."""
    data = {"id": instance.pk, "title": instance.title, "state": instance.state}
    transaction.on_commit(lambda: hub.publish(orders_of(instance.user), data, private=True, on_failure="log"))


def with_cookie(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Let the user's browser read the user's orders."""
    response.cookies.load(hub.cookie([orders_of(request.user)], request.get_host(), user=request.user.pk))
    return response


@cache_control(private=True, no_store=True)
def page(request: HttpRequest) -> HttpResponse:
    """The user's orders, or a form to sign in."""
    values: dict[str, Any] = {}
    if request.user.is_authenticated:
        # The hub's position first, then the data: nothing is missed in between.
        values["session"] = hub.session([orders_of(request.user)], refresh="/renew")
        values["orders"] = request.user.orders.all()
    return HttpResponse(engines["django"].from_string(PAGE).render(values, request))


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in by name alone; a real site asks for a password."""
    user, is_new = get_user_model().objects.get_or_create(username=request.POST["name"])
    login(request, user)
    if is_new:
        Order.objects.create(user=user, title="Ulysses")
    return with_cookie(request, redirect("/"))


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """Sign out, of the hub too."""
    logout(request)
    response = redirect("/")
    response.cookies.load(hub.expired_cookie(request.get_host()))
    return response


@csrf_exempt  # the header takes the place of the token: forms of other sites cannot send it
@require_POST
@login_required  # whose redirect tells the module that nobody is signed in
def renew(request: HttpRequest) -> HttpResponse:
    """Set the cookie anew, before it ends; the JavaScript module asks for it."""
    if "X-Requested-With" not in request.headers:
        return HttpResponse(status=403)
    return with_cookie(request, HttpResponse(status=204))


@require_POST
@login_required
def save(request: HttpRequest, number: int | None = None) -> HttpResponse:
    """Order something, or set the state of an order."""
    if number is None:
        request.user.orders.create(title=request.POST["title"])
    else:
        order = get_object_or_404(request.user.orders, pk=number)
        order.state = request.POST["state"]
        order.save()
    return HttpResponse(status=204)  # all pages of the user learn of it from the hub, this one too


PAGE = """<!doctype html>
{% load static %}
<meta name="viewport" content="width=device-width">
<title>Orders</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 1rem/1.5 system-ui }
  body { max-width: 30rem; margin: auto; padding: 1rem }
</style>
{% if session %}
  <form method="post" action="/logout">{% csrf_token %}{{ user.username }} <button>Sign out</button></form>
  <ul id="orders">{% for order in orders %}
    <li><button id="{{ order.pk }}" value="paid">{{ order.title }}: {{ order.state }}</button></li>
  {% endfor %}</ul>
  <form id="new">{% csrf_token %}<input name="title" required> <button>Order</button></form>
  <p>Click on an order to pay it.</p>
  {{ session|json_script:"session" }}
  <script type="module">
    import { connect } from "{% static 'mercure/mercure.js' %}";

    const form = document.getElementById("new");
    const list = document.getElementById("orders");
    const mercure = connect(JSON.parse(document.getElementById("session").textContent));
    mercure.on("message", (update) => {
      const { id, title, state } = update.json();
      let order = document.getElementById(id);
      if (!order) {
        order = document.createElement("button");
        Object.assign(order, { id, value: "paid" });
        list.appendChild(document.createElement("li")).append(order);
      }
      order.textContent = `${title}: ${state}`;
    });
    mercure.addEventListener("gap", () => mercure.reload());

    function save(path, state = "new") {
      const body = new FormData(form);
      body.set("state", state);
      fetch(path, { method: "POST", body });
    }
    list.addEventListener("click", ({ target: { id, value } }) => id && save(`/orders/${id}`, value));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      save("/orders");
      form.reset();
    });
  </script>
{% else %}
  <form method="post" action="/login">{% csrf_token %}
    <input name="name" placeholder="your name" required> <button>Sign in</button>
  </form>
{% endif %}
"""

urlpatterns = [
    path("", page),
    path("login", sign_in),
    path("logout", sign_out),
    path("renew", renew),
    path("orders", save),
    path("orders/<int:number>", save),
]

if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    call_command("migrate", verbosity=0)
    if Order._meta.db_table not in connection.introspection.table_names():  # a project has a migration
        with connection.schema_editor() as editor:
            editor.create_model(Order)
    call_command("runserver", *(sys.argv[1:] or ["localhost:8000"]), use_reloader=False)
