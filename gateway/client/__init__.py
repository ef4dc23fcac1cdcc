"""The client of a gateway, for programs: surveys made, watched, read and managed over the public services.

    from gateway.client import PaperRouteClient

    with PaperRouteClient("127.0.0.1:50050") as client:
        survey = client.create_survey("What are the recent trends in LoRA for image generation?", max_papers=80)
        for event in client.watch_survey(survey.survey_id):
            print(event.section_text.text, end="")
        print(client.get_survey(survey.survey_id).coverage)

What comes back are the messages of the public contract (`protos/paperroute/v1`), which are typed.
"""

from gateway.client.async_client import AsyncPaperRouteClient
from gateway.client.errors import RequestFailed
from gateway.client.sync_client import PaperRouteClient
from services.common.settings import ClientSettings

__all__ = ["AsyncPaperRouteClient", "ClientSettings", "PaperRouteClient", "RequestFailed"]
