// The login: a key in, a cookie out, which the browser keeps where no script can read it.

import { $ } from "./panels.js";

const form = $("login");

/** Ask for a key; `then` is called once the API has taken one. */
export function askForKey(then) {
  if (!form.hidden) return;
  form.hidden = false;
  $("key").focus();
  form.onsubmit = async (event) => {
    event.preventDefault();
    const refusal = await logIn($("key").value.trim());
    $("login-problem").textContent = refusal;
    if (refusal) return;
    $("key").value = "";
    form.hidden = true;
    then();
  };
}

/** Send a key; return the reason of a refusal, empty if the key is taken. */
async function logIn(key) {
  try {
    const answer = await fetch("/live/login", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ key }),
    });
    return answer.ok ? "" : (await answer.json()).detail;
  } catch {
    return "the API does not answer";
  }
}
