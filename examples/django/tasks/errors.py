"""Errors of uploads as responses."""

import logging

from django.http import HttpResponse
from django.utils.decorators import async_only_middleware

from provider_uploads import ProviderUploadsError
from provider_uploads.web import problem

log = logging.getLogger(__name__)


@async_only_middleware
def explain_errors(get_response):
    """Answer with what went wrong, in words; what users cannot mend is for the log."""

    async def middleware(request):
        return await get_response(request)

    def process_exception(request, error):
        if not isinstance(error, ProviderUploadsError):
            return None
        answer = problem(error)
        if answer.status >= 500:
            log.error("%s", error)
        return HttpResponse(answer.body, status=answer.status, headers=answer.headers)

    middleware.process_exception = process_exception
    return middleware
