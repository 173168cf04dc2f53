"""Where things are."""

from django.urls import path

from tasks import views

urlpatterns = [
    path("", views.page),
    path("uploads", views.upload),
    path("uploads/<str:ticket>/cancel", views.cancel),
    path("events", views.events),
]
