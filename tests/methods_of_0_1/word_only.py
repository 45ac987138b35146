from cpbench import learning
from cpbench.baselines.seqlora import SequentialLora, add_tokens, add_words
from cpbench.method import State


class WordOnly(SequentialLora):  # whose options, and words "<v1> dog", it has
    def learn(self, backbone, task, state):  # this concept's pictures only; returns the next state
        after, row = add_words(backbone, task, state or State(), backbone.word_embedding(task.class_noun))
        loss, o = learning.denoising(backbone, self.phrase(task.concept, task.class_noun, after)), self.options
        learning.train(backbone, task, loss, [(o.token_learning_rate, [row])], o.steps, o.batch_size)
        after.tensors[f"token/{task.concept}"] = row.detach()
        return after

    def install(self, backbone, state, concepts):  # ready a pristine backbone to draw these concepts
        add_tokens(backbone, state)
