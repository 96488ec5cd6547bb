import { fetchEventSource } from "@microsoft/fetch-event-source";
import { headers, tell, url } from "./given.mjs";

// It is written for browsers; these are all that it uses of one.
globalThis.window = globalThis;
globalThis.document = { addEventListener() {}, removeEventListener() {} };

await fetchEventSource(url, {
  headers,
  openWhenHidden: true,
  onmessage: ({ id, data }) => tell(id, data),
  // It takes a stream that ends for one that is complete, unless this throws.
  onclose() {
    throw new Error("the stream ended");
  },
});
