import { followRuns } from "mercure/runs";

const runs = document.getElementById("runs");
const form = document.querySelector("form");

followRuns({ match: runs.dataset.topics, match_type: "urlpattern" }, (topic) => {
  const run = runs.querySelector("template").content.cloneNode(true).querySelector("article");
  const [question, answer, footer] = run.children;
  footer.firstElementChild.onclick = () => fetch(`/runs/${topic.split("/").at(-1)}/stop`, { method: "POST" });
  runs.append(run);
  return {
    events(events) {
      for (const event of events) {
        if (typeof event === "string") answer.append(event);
        else question.textContent = event.question;
      }
      run.scrollIntoView({ block: "end" });
    },
    restart: () => answer.replaceChildren(),
    end({ kind, message }) {
      run.dataset.end = kind;
      footer.textContent = { done: "", stopped: "Stopped.", error: message }[kind];
    },
  };
});

form.onsubmit = async (event) => {
  event.preventDefault();
  const { ok, status } = await fetch(form.action, { method: "POST", body: new FormData(form) });
  if (ok) form.reset();
  else alert(`The question was not taken: ${status}`);
};
