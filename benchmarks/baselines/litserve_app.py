"""The same behind LitServe, whose workers answer what is waiting as one batch."""

import argparse

import litserve
from redis import Redis

from benchmarks.baselines.answer_models import Body
from benchmarks.baselines.plain_model import PATH, READY, STORE_URL, PlainModel


class Recommender(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = PlainModel()
        self.redis = Redis.from_url(STORE_URL, protocol=2)

    def decode_request(self, request: Body) -> Body:
        return request

    def batch(self, bodies: list[Body]) -> list[Body]:
        return bodies

    def predict(self, bodies: list[Body]) -> list[dict[str, object]]:
        values = self.redis.mget([self.model.key(body.user_id) for body in bodies])
        return self.model.answer(bodies, values)

    def unbatch(self, answers: list[dict[str, object]]) -> list[dict[str, object]]:
        return answers

    def encode_response(self, answer: dict[str, object]) -> dict[str, object]:
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    args = parser.parse_args()
    api = Recommender(max_batch_size=16, batch_timeout=0.002, api_path=PATH)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=args.workers, healthcheck_path=READY
    )
    server.run(
        host="127.0.0.1",
        port=args.port,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
