import { EventSourcePolyfill } from "event-source-polyfill";
import { headers, tell, url } from "./given.mjs";

const source = new EventSourcePolyfill(url.href, {
  headers,
  lastEventIdQueryParameterName: process.env.CURSOR_PARAMETER, // "lastEventId" when it is not given
});
source.onmessage = ({ lastEventId, data }) => tell(lastEventId, data);
