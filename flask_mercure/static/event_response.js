// An event stream as the response of a fetch, for libraries that read it themselves: htmx 4 does.

import { asked, take } from "./page.js";

/**
 * Fetch, where event streams of the page's hub come from the page's one connection.
 *
 * @param {string | URL} url
 * @param {RequestInit} [request] its `signal` ends the stream
 * @returns {Promise<Response>} of a stream that does not end when the network fails
 */
export function fetchEvents(url, request = {}) {
  const wanted = asked(url);
  if (!wanted) return fetch(url, request);
  const { signal, headers } = request;
  const cursor = new Headers(headers).get("Last-Event-ID") || wanted.lastEventId;
  return new Promise((resolve, reject) => {
    let end = () => {};
    let response = null;
    const answer = (content, init) => {
      if (response) return; // it was open before
      response = new Response(content, init);
      resolve(response);
    };
    const body = new ReadableStream({
      start: (controller) => {
        const encoder = new TextEncoder();
        const stop = (error) => {
          end();
          reject(error);
          controller.error(error);
        };
        const aborted = () => stop(signal.reason);
        const give = (update) => controller.enqueue(encoder.encode(encoded(update)));
        const leave = take({ ...wanted, lastEventId: cursor }, give, (state, { status }) => {
          if (state === "open") answer(body, { headers: { "Content-Type": "text/event-stream" } });
          else if (state === "refused" || state === "closed") {
            answer(null, { status: status >= 400 ? status : 503 });
            stop(new DOMException(`the stream has ended: ${state}`, "NetworkError"));
          }
        });
        end = () => {
          leave();
          signal?.removeEventListener("abort", aborted);
        };
        if (signal?.aborted) aborted();
        else signal?.addEventListener("abort", aborted);
      },
      cancel: () => end(),
    });
  });
}

function encoded({ id, type, data }) {
  const lines = [`id: ${id}`, ...(type === "message" ? [] : [`event: ${type}`])];
  return [...lines, ...data.split(/\r\n?|\n/).map((line) => `data: ${line}`), "", ""].join("\n");
}
